"""Counts the calls that write files below a folder, and ends or fails one of them.

`install` replaces the functions once; `watch` then decides what happens in this process. A call is identified by its
number, which is the same in every run because plaudit's work is deterministic.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HOWS = ("kill", "torn", "EIO", "ENOSPC")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_open, _os = io.open, {name: getattr(os, name) for name in (
    "open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "link", "symlink", "truncate",
    "ftruncate",
)}  # fmt: skip


class Call(NamedTuple):
    """A call that changes files.

    Attributes:
        number: counted from 0, in the order of the calls.
        kind: name of the function, or "write" to an open file.
        path: relative to the watched folder.
    """

    number: int
    kind: str
    path: str


class Fault(NamedTuple):
    """What happens at a call.

    Attributes:
        number: of the call.
        how: "kill" before it; "torn": kill after half of the bytes, or after a call without bytes; "EIO" or "ENOSPC":
            the call raises OSError instead; "full": it and every later write raises ENOSPC.
    """

    number: int
    how: str


class _Watch:
    """The state of this process; nothing is counted while `folder` is None."""

    folder: Path | None = None
    fault: Fault | None = None
    log = -1  # file descriptor that gets one line a call
    count = 0
    busy = False  # in a torn call, whose own file calls are not counted


def watch(folder: Path, fault: Fault | None = None, log: int = -1) -> None:
    """Count the calls on files below `folder` from now on.

    Args:
        log: an open file descriptor, or -1: every call is written there as "kind TAB path".
    """
    _Watch.folder, _Watch.fault, _Watch.log, _Watch.count = folder.resolve(), fault, log, 0


def read_log(path: Path) -> list[Call]:
    """The calls that a watched process has logged."""
    return [Call(i, *line.split("\t")) for i, line in enumerate(path.read_text(encoding="utf-8").splitlines())]


def install() -> None:
    """Replace the functions that change files. The originals are called for files outside the watched folder."""
    import safetensors.numpy
    import safetensors.torch
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    builtins.open = io.open = _watched_open
    for name in _os:
        setattr(os, name, _watched_os(name))
    for module in (safetensors.torch, safetensors.numpy):  # save_file of both calls this, which writes in Rust
        module.serialize_file = _native("save_file", module.serialize_file)
    for cls in (PreTrainedModel, PreTrainedTokenizerBase):
        cls.save_pretrained = _native("save_pretrained", cls.save_pretrained)


def _below(path: Any, dir_fd: int | None = None) -> str | None:
    """The path relative to the watched folder; None outside of it."""
    if _Watch.folder is None or _Watch.busy:
        return None
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    elif dir_fd is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
    full = os.path.abspath(os.fsdecode(os.fspath(path)))
    inside = full == str(_Watch.folder) or full.startswith(f"{_Watch.folder}/")
    return os.path.relpath(full, _Watch.folder) if inside else None


def _counted(kind: str, path: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
    """Do a call, or what the fault has for it."""
    number, fault = _Watch.count, _Watch.fault
    _Watch.count += 1
    if _Watch.log >= 0:
        _os["write"](_Watch.log, f"{kind}\t{path}\n".encode())
    if fault is not None and fault.how == "full":
        if number >= fault.number and kind in ("write", "save_file", "mkdir", "link"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    elif fault is not None and number == fault.number:
        try:
            if fault.how == "torn":
                (half or act)()
        finally:  # a call may fail by itself, such as mkdir of what exists
            if fault.how in ("kill", "torn"):
                os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, fault.how)
        raise OSError(code, os.strerror(code), path)
    return act()


class _File(io.FileIO):
    """An unbuffered file whose writes are counted."""

    where = ""

    def write(self, data: Any) -> int:
        """Write the bytes, or half of them before a kill."""
        content, write = bytes(data), super().write
        if not self.where:
            return write(content)
        return _counted("write", self.where, lambda: write(content), lambda: write(content[: len(content) // 2]))


def _watched_open(
    file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
) -> Any:
    where = _below(file) if set(mode) & set("wax+") else None
    if where is None:
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _counted("open", where, lambda: _File(file, mode.replace("b", "").replace("t", ""), closefd, opener))
    raw.where = where
    if buffering == 0:
        return raw
    buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, max(buffering, io.DEFAULT_BUFFER_SIZE))
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)


def _watched_os(name: str) -> Callable[..., Any]:
    original = _os[name]
    position = 1 if name in ("replace", "rename", "link", "symlink") else 0  # the name that is made

    def watched(*args, **kwargs):
        if _Watch.folder is None:
            return original(*args, **kwargs)
        if name == "open" and not (args[1] if len(args) > 1 else kwargs["flags"]) & _WRITES:
            return original(*args, **kwargs)
        where = _below(args[position], kwargs.get("dir_fd"))
        if where is None:
            return original(*args, **kwargs)
        half = (lambda: original(args[0], args[1][: len(args[1]) // 2])) if name == "write" else None
        return _counted("unlink" if name == "remove" else name, where, lambda: original(*args, **kwargs), half)

    return watched


def _native(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes files in native code; half of it is all of it with its newest file cut in half."""

    def watched(*args, **kwargs):
        path = args[1] if len(args) > 1 else kwargs.get("filename", kwargs.get("save_directory"))
        where = _below(path) if path is not None else None
        if where is None:
            return original(*args, **kwargs)

        def half():
            _Watch.busy = True
            original(*args, **kwargs)
            files = [p for p in ([Path(path)] if Path(path).is_file() else Path(path).iterdir()) if p.is_file()]
            newest = max(files, key=lambda p: p.stat().st_mtime_ns)
            _os["truncate"](newest, newest.stat().st_size // 2)

        return _counted(kind, where, lambda: original(*args, **kwargs), half)

    return watched
