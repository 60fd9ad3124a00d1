"""How the work on a stage ended before it was finished: RUN/ended.json, with an entry for each such stage.

A finished stage has its summary.json instead, and a process that was killed leaves neither.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plaudit.files import remove_file, write_json
from plaudit.training import heartbeat
from plaudit.training.metrics import StepReport

FILE = "ended.json"


class Ending(NamedTuple):
    """How a stage ended.

    Attributes:
        how: "stopped" by Ctrl-C, SIGTERM or the program that asked for the steps, or "failed".
        reason: name of the signal, or the error in one line; "" where a program stopped asking.
        step: steps in metrics.jsonl.
    """

    how: Literal["stopped", "failed"]
    reason: str
    step: int
    at: str = ""


def recorded(
    run: Path, stage: str, reports: Iterator[StepReport], complete: Callable[[], bool]
) -> Iterator[StepReport]:
    """The reports of a stage; leaves a record if they end early, which the next attempt removes.

    Args:
        complete: says whether the stage has finished. A signal may come just after that.
    """

    def record(error: BaseException) -> None:
        if not complete():
            with suppress(OSError):  # the error itself matters more, such as a full disk
                write_json(run / FILE, _entries(run) | {stage: _ending(error, run / stage)._asdict()})

    forget(run, (stage,))
    with heartbeat.recorded_by(record):
        try:
            yield from reports
        except Exception as error:
            record(found := heartbeat.explained(error))
            if found is error:
                raise
            raise found from None
        except BaseException as error:
            record(error)
            raise


def forget(run: Path, stages: Iterable[str]) -> None:
    """Remove the records of some stages."""
    known = _entries(run)
    left = {stage: entry for stage, entry in known.items() if stage not in stages}
    if not left:
        remove_file(run / FILE)
    elif left != known:
        write_json(run / FILE, left)


def endings(run: Path) -> dict[str, Ending]:
    """The records of a run directory, by stage; what cannot be read is left out."""
    found = {}
    for stage, entry in _entries(run).items():
        with suppress(TypeError):
            ending = Ending(**entry)
            if ending.how in ("stopped", "failed") and isinstance(ending.reason, str):
                found[stage] = ending
    return found


def _entries(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ending(error: BaseException, folder: Path) -> Ending:
    try:
        step = (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        step = 0
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(error, Exception):
        return Ending("failed", heartbeat.described(error), step, at)
    if isinstance(error, KeyboardInterrupt):
        return Ending("stopped", signal.Signals(getattr(error, "number", signal.SIGINT)).name, step, at)
    return Ending("stopped", "", step, at)
