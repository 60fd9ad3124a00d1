"""Hashes of the files in a finished folder, recorded when it is finished and checked before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from plaudit.files import sha256, sync, write_json, writes

FILE = "manifest.json"
OTHER_REWARDS = "other_rewards.json"  # scores by rewards that the policy was not trained for
EVALUATION_FILES = (  # which are removed together
    *("evaluation.json", "responses.jsonl", "samples.jsonl", "report.html", "frontier.json"),
    OTHER_REWARDS,
)
_whole: dict[Path, int] = {}  # undamaged folders, and the modification time of their manifest (ns)


def write(folder: Path, files: Iterable[Path], coming: dict[str, str] | None = None) -> None:
    """Sync some files of a folder and record their hashes.

    Args:
        coming: content, by file name, of files that will be written after the manifest.
    """
    if not writes():
        return
    hashes = {name: hashlib.sha256(text.encode("utf-8")).hexdigest() for name, text in (coming or {}).items()}
    for path in sorted(files):
        sync(path)
        hashes[path.relative_to(folder).as_posix()] = sha256(path)
    write_json(folder / FILE, {"sha256": hashes})


def first_damaged(folder: Path) -> Path | None:
    """The first file that is missing or differs from its hash, or None. Hashes are computed once in a process."""
    path = folder / FILE
    try:
        written = path.stat().st_mtime_ns
        if _whole.get(folder.resolve()) == written:
            return None
        hashes = dict(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return path
    for name, digest in hashes.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return folder / name
    _whole[folder.resolve()] = written
    return None
