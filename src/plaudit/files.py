"""Files that are written whole or not at all: whoever opens one finds its old content or its new content.

A file is written beside its place, synced and renamed. What a crash leaves behind is named `.NAME.partial`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"
_IS_WINDOWS = os.name == "nt"
_TRIES, _PAUSE = 20, 0.1  # Windows does not replace a file that somebody has open: wait two seconds for a reader


def partial_of(path: Path) -> Path:
    """Where the content of `path` is written first."""
    return path.with_name(f".{path.name}{_PARTIAL}")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace the file at `path`, or leave it as it is."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    _replace(partial, path)
    _sync_folder(path.parent)


def json_text(content: Any) -> str:
    """Indented JSON.

    Raises:
        ValueError: the content has NaN or infinity, which JSON does not have.
    """
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file; errors as in `json_text`."""
    write_atomic(path, json_text(content))


def move_folder(partial: Path, final: Path) -> None:
    """Sync a folder that was written as `partial`, and give it its name; a folder of that name is removed."""
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            sync(path)
    remove_folder(final)
    _replace(partial, final)
    _sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if there is one; a crash leaves the whole folder or nothing of its name."""
    if folder.exists():
        leaving = partial_of(folder.with_name(f"{folder.name}.old"))
        shutil.rmtree(leaving, ignore_errors=True)
        _replace(folder, leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    handle = os.open(path, os.O_RDWR)  # Windows syncs no file that is open for reading alone
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what a crash has left half written, in `folder` and in the folders below it."""
    for path in [*folder.rglob(f".*{_PARTIAL}"), *folder.rglob(".tmp*")]:  # the latter are of safetensors
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256(path: Path, length: int | None = None) -> str:
    """Hash of a file, or of its first `length` bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if length is None else length
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _replace(partial: Path, final: Path) -> None:
    for attempt in range(_TRIES):
        try:
            return os.replace(partial, final)
        except PermissionError:
            if not _IS_WINDOWS or attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE)


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows cannot, and does it by itself."""
    if _IS_WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
