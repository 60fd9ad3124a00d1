"""Files that are written completely or not at all: a reader finds the old content or the new content.

The content is written to `.NAME.partial` in the same folder, synced to the disk and renamed. A crash may leave a
`.partial` file behind; `sweep` removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"
_IS_WINDOWS = os.name == "nt"
_TRIES, _PAUSE = 20, 0.1  # Windows cannot replace a file that another program has open: try for two seconds
_writes = True


def write_nothing() -> None:
    """From here on, the functions of this module change nothing: another process of the job writes the files."""
    global _writes
    _writes = False


def writes() -> bool:
    """Whether this process writes files."""
    return _writes


def partial_of(path: Path) -> Path:
    """The temporary path that the content of `path` is written to."""
    return path.with_name(f".{path.name}{_PARTIAL}")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace the file at `path`; after a crash it has the old content or the new one."""
    if not _writes:
        return
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


def share_tensors(folder: Path) -> None:
    """Give the files of tensors in a folder, and below it, the mode of other new files, as the umask says.

    safetensors writes them through a temporary file, which only its owner may read.
    """
    if not _writes:
        return
    new = partial_of(folder / "mode")
    new.touch()  # its mode is the umask's; os.umask cannot be read without setting it for all threads
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def move_folder(partial: Path, final: Path) -> None:
    """Sync a folder that was written as `partial` and rename it to `final`; an existing `final` is removed."""
    share_tensors(partial)
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            sync(path)
    remove_folder(final)
    _replace(partial, final)
    _sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists; after a crash it is either complete or gone."""
    if _writes and folder.exists():
        leaving = partial_of(folder.with_name(f"{folder.name}.old"))
        shutil.rmtree(leaving, ignore_errors=True)
        _replace(folder, leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    if _writes:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    handle = os.open(path, os.O_RDWR)  # Windows cannot sync a file that is open only for reading
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the partial files and folders that a crash has left, in `folder` and below it."""
    if not _writes:
        return
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
    """Wait until the names of a folder's files are on the disk. Windows has no call for this."""
    if _IS_WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy(source: str, target: str) -> None:
    """A hard link, which takes no disk space; a copy on a file system without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
