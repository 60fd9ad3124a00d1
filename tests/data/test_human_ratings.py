"""A tiny release that pip finds in a folder: nothing here needs a network."""

import io
import tarfile

import pytest
from local_index import publish

from plaudit.data import human_ratings as module
from plaudit.data.human_ratings import human_ratings, unseen
from plaudit.errors import DataError
from plaudit.fetching import kept_at
from plaudit.records import RatedText

TEXTS = "1\t2.5\tLovely &amp; Amazing\u2026 it's ''great''\r\n2\t-1.0\tNot   good.\r\n31\t0.0\tSo\u2028so"
RATINGS = "1\t2.5\t0.5\t[3, 2]\r\n2\t-1.0\t0.0\t[-1, -1]\r\n31\t0.0\t0.0\t[0, 0, 0]"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The tiny release in the place of the real one, and an empty cache; the path of the release."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in ((module._TEXTS, TEXTS), (module._RATINGS, RATINGS)):
            entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    package = publish(module.PACKAGE, {module._ARCHIVE: archive.getvalue()}, tmp_path, monkeypatch)
    monkeypatch.setattr(module, "PACKAGE", package)
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / package.file


def test_ratings_are_downloaded_once_and_normalised(published):
    rated = human_ratings()
    assert rated == [
        RatedText('lovely & amazing . it\'s " great "', (3, 2), 0),
        RatedText("not good .", (-1, -1), 0),
        RatedText("soso", (0, 0, 0), 1),
    ]
    published.unlink()
    assert human_ratings() == rated


def test_without_a_network_the_error_is_one_line(published):
    published.unlink()
    with pytest.raises(DataError, match=r"^human-ratings: pip cannot download .*; check the network .*$"):
        human_ratings()


def test_a_damaged_cache_is_reported_with_the_folder_to_delete(published):
    human_ratings()
    (kept_at(module.PACKAGE) / module._RATINGS).write_text("1\t2\t3\t[1,\n")
    with pytest.raises(DataError, match=r"cannot be read: .*; delete .*human-ratings-0.5 to download it again"):
        human_ratings()


def test_seen_texts_are_recognised_in_another_spelling():
    rated = [RatedText(text, (1,), 0) for text in ("a well made film !", "a Well-Made  film", "cafe society", "other")]
    assert [r.text for r in unseen(rated, ["A well-made film.", "café society"])] == ["other"]
    assert len(unseen(rated, [])) == 3  # distinct texts
