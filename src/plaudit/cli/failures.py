"""The one-line error that ends a command: what failed, where, and what to do."""

import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from plaudit.errors import RunError, in_one_line
from plaudit.training import heartbeat


def describe(error: Exception) -> str:
    """The error in one line. For an unexpected error, the traceback goes to a file, and the line names that file."""
    if text := in_one_line(error):
        return text
    with tempfile.NamedTemporaryFile(
        "w", prefix="plaudit-error-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    text = " ".join(str(error).split())[:200]
    return f"unexpected {type(error).__name__}: {text}; please report it with {os.path.abspath(file.name)}"


def tell(line: str, error: Exception | None = None, *, speaks: bool = False) -> None:
    """Print the line that ends a command.

    In a job of several processes, the first one of each host says what all of them would say, and a rank that failed
    alone names itself; `speaks` is for one that was chosen otherwise. torchrun gets an unexpected error, and shows it.
    """
    heartbeat.leave(heartbeat.described(error) if error else line)
    rank = int(os.environ.get("RANK") or 0)
    alone = error if _several() and not getattr(error, "everywhere", False) else None
    if int(os.environ.get("LOCAL_RANK") or rank) and alone is None and not speaks:
        return
    print(f"plaudit: {f'rank {rank}: ' if alone else ''}{line}", file=sys.stderr)
    if alone is not None and not in_one_line(alone):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(alone)


def way_on(words: str) -> str:
    """How a command is continued; a job of several processes, by its torchrun command."""
    if not _several():
        return f"; continue with: plaudit {words}"
    left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) - int(
        os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0
    )
    return "; torchrun starts it again" if left > 0 else f"; continue with: torchrun ... -m plaudit {words}"


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1" and "plaudit.training.dist" in sys.modules


def must_exist(directory: Path) -> None:
    """Refuse a folder that is no run directory with a RunError."""
    if not (directory / "config.toml").exists():
        make = f"plaudit run --out {shlex.quote(str(directory))}"
        raise RunError(f"{directory}: no run here (config.toml is missing); make one with {make}")
