"""Files are written whole or not at all."""

import hashlib
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from plaudit import files


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_at(monkeypatch, name):
    def crash(*arguments, **keywords):
        raise Crash

    monkeypatch.setattr(os, name, crash)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "config.toml"
    files.write_atomic(path, "old")
    with monkeypatch.context() as patch:
        crash_at(patch, call)
        with pytest.raises(Crash):
            files.write_atomic(path, "new")
    assert path.read_text() == "old"
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["config.toml"]
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_renamed_is_synced_before(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    files.write_atomic(tmp_path / "a", "x")
    assert calls == (["fsync", "replace", "fsync"] if os.name != "nt" else ["fsync", "replace"])


def test_json_has_no_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("inf")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_replaces_another(tmp_path):
    final = tmp_path / "step"
    final.mkdir()
    (final / "old").write_text("old")
    partial = files.partial_of(final)
    (partial / "below").mkdir(parents=True)
    (partial / "below" / "new").write_text("new")
    files.move_folder(partial, final)
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
        "step",
        "step/below",
        "step/below/new",
    ]


def test_sweeping_removes_partial_files_and_folders_only(tmp_path):
    for name in ("a/.x.partial/file", "a/.y.json.partial", "a/.tmpAb12Xy", "a/kept.partial", ".hidden", "a/.z"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    files.sweep(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"a/kept.partial", ".hidden", "a/.z"}


@pytest.mark.parametrize("length", [None, 0, 3, 2**20, 2**20 + 7])
def test_the_hash_is_of_the_first_bytes(tmp_path, length):
    content = bytes(range(256)) * 5000
    path = tmp_path / "a"
    path.write_bytes(content)
    assert files.sha256(path, length) == hashlib.sha256(content[:length]).hexdigest()


def test_windows_waits_for_a_reader_and_does_not_sync_folders(tmp_path, monkeypatch):
    refusals = [PermissionError("open elsewhere"), PermissionError("open elsewhere")]
    real_replace, synced = os.replace, []

    def replace(source, target):
        if refusals:
            raise refusals.pop()
        real_replace(source, target)

    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files, "_IS_WINDOWS", True)
    monkeypatch.setattr(os, "fsync", synced.append)
    files.write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert len(synced) == 1


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_tensors_have_the_mode_that_the_umask_gives_other_files(tmp_path, umask):
    """safetensors itself writes them for their owner alone."""
    save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "below").mkdir()
    save_file({"a": np.zeros(2)}, tmp_path / "below" / "adapter_model.safetensors")
    (tmp_path / "secret.txt").touch(0o600)
    files.share_tensors(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert modes == {
        "model.safetensors": 0o666 & ~umask,
        "adapter_model.safetensors": 0o666 & ~umask,
        "secret.txt": 0o600 & ~umask,
    }
