"""Ctrl-C and SIGTERM: finish the running step, save a checkpoint, and stop."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TWICE = 5.0  # seconds: Slurm sends a signal to every process of a job, and torchrun passes on its own
_requests: list[int] = []  # signals received so far
_loops: list[str] = []  # stages of the running training loops, which call `requested` after each step


class Stopped(KeyboardInterrupt):
    """The user or the system ended the work.

    Attributes:
        number: number of the signal.
        saved: whether a checkpoint of the last finished step was saved.
    """

    def __init__(self, number: int, *, saved: bool = False) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


@contextmanager
def signals(say: str) -> Iterator[None]:
    """Within this context, a training loop finishes its step and saves a checkpoint after the first Ctrl-C or SIGTERM.

    A second signal, or a signal outside a training loop, stops the program at once. In a job of several processes, a
    second one that follows within seconds is the first, by another way.

    Args:
        say: message for stderr when a training loop has been asked to stop.

    Raises:
        Stopped: by the training loop after its step, or at once from the code that was running.
    """

    several = os.environ.get("WORLD_SIZE", "1") != "1"
    first = [-math.inf]  # when it came

    def note(number: int, frame: FrameType | None) -> None:
        if _requests and several and time.monotonic() < first[0] + _TWICE:
            return
        first[0] = time.monotonic()
        at_once = bool(_requests) or not _loops
        _requests.append(number)
        if at_once:
            raise Stopped(number)
        os.write(2, f"\n{say}\n".encode())  # print is not safe in a signal handler

    def unraisable(what: Any) -> None:
        if not isinstance(what.exc_value, Stopped):  # `stop_if_ignored` raises it again
            before_hook(what)

    before_hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        sys.unraisablehook = before_hook
        _requests.clear()
        _loops.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def training_loop(stage: str) -> Iterator[None]:
    """Context of a training loop that calls `requested` after each step."""
    _loops.append(stage)
    try:
        yield
    finally:
        if stage in _loops:
            _loops.remove(stage)


def requested() -> bool:
    """Whether a training loop should save a checkpoint and call `stop`."""
    return bool(_requests)


def stop_if_ignored() -> None:
    """Raise `Stopped` for a signal that came in a callback, where Python ignores what is raised."""
    if _requests and not _loops:
        raise Stopped(_requests[0])


def stop() -> None:
    """End a training loop that has saved its checkpoint.

    Raises:
        Stopped: always.
    """
    # Another process of the job may have been asked.
    raise Stopped(_requests[0] if _requests else signal.SIGTERM, saved=True)
