"""The one-line error that ends a command: what failed, where, and what to do."""

import errno
import os
import shlex
import tempfile
import traceback
from pathlib import Path

from plaudit.errors import PlauditError, RunError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def describe(error: Exception) -> str:
    """The error in one line. For an unexpected error, the traceback goes to a file, and the line names that file."""
    text = " ".join(str(error).split())
    if isinstance(error, PlauditError):
        return text
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _OUT_OF_MEMORY):
        return "out of memory; lower microbatch_size or batch_size, train fewer layers, or close other programs"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        space = "; free some disk space" if error.errno in _NO_SPACE else ""
        return f"{place}{error.strerror}{space}"
    if type(error).__name__ == "SafetensorError":
        return f"a file of tensors cannot be read or written: {text}"
    with tempfile.NamedTemporaryFile(
        "w", prefix="plaudit-error-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return f"unexpected {type(error).__name__}: {text[:200]}; please report it with {os.path.abspath(file.name)}"


def must_exist(directory: Path) -> None:
    """Refuse a folder that is no run directory with a RunError."""
    if not (directory / "config.toml").exists():
        make = f"plaudit run --out {shlex.quote(str(directory))}"
        raise RunError(f"{directory}: no run here (config.toml is missing); make one with {make}")
