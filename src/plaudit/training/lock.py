"""The lock on a run directory: one process at a time owns it."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from plaudit.errors import RunError
from plaudit.training import dist

_SHARED = 10.0  # seconds until a network file system shows what another host has written
_CACHED = 90.0  # the same where this host may remember that there was no such file; NFS forgets that after a minute
FILES = _FILE, _OWNER = ".lock", ".owner.json"
_held: dict[Path, FileLock] = {}  # locks that this process holds until it ends


def acquire(run: Path) -> None:
    """Make this process the owner of a run directory until the process ends. Killing the process also ends it.

    Raises:
        RunError: another process is the owner.
    """
    path = run.resolve()
    if path in _held:
        return
    lock = FileLock(path / _FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{run}: in use by {_owner(path)}; wait until it has finished, or choose another --out"
        ) from None
    _held[path] = lock
    owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    (path / _OWNER).write_text(json.dumps(owner), encoding="utf-8")


def release(run: Path) -> None:
    """Release the lock on a run directory before the process ends."""
    lock = _held.pop(run.resolve(), None)
    if lock is not None:
        (run / _OWNER).unlink(missing_ok=True)
        lock.release()


def check_shared(run: Path) -> Path:
    """The directory; a RunError on all ranks if one of them does not see what rank 0 has written in it."""
    if dist.size() == 1:
        return run
    owner = dist.on_main(lambda: (run / _OWNER).read_text(encoding="utf-8"))
    dist.together(lambda: _check_seen(run, owner))
    return run


def _check_seen(run: Path, owner: str) -> None:
    if not _shows(run / _OWNER, owner, _SHARED):
        host = json.loads(owner)["host"]
        raise RunError(
            f"{run}: {platform.node()} does not see the files that rank 0 writes there on {host}; choose an --out on a "
            "file system that all hosts of the job share"
        )


def wait_for(path: Path) -> None:
    """Wait until every rank sees a file that rank 0 has written; a RunError on all of them if one does not."""
    if dist.size() > 1:
        content = dist.on_main(lambda: path.read_text(encoding="utf-8"))
        dist.together(lambda: _wait_for(path, content))


def _wait_for(path: Path, content: str) -> None:
    if not _shows(path, content, _CACHED):
        raise RunError(
            f"{path}: {platform.node()} does not see after {_CACHED:.0f} s what rank 0 has written there; continue "
            "with --resume, on a file system whose hosts remember directories for less long (NFS: acdirmax)"
        )


def _shows(path: Path, content: str, seconds: float) -> bool:
    """Whether a file has this content on this host, now or within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                return True
        time.sleep(0.2)
    return False


def _owner(run: Path) -> str:
    try:
        owner = json.loads((run / _OWNER).read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
