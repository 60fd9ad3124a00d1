"""Stop after the step that is running, with a checkpoint, when the user or the system asks for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_requests: list[int] = []  # signals that have come
_loops: list[str] = []  # training loops that finish their step and save when asked


class Stopped(KeyboardInterrupt):
    """The user or the system ended the work.

    Attributes:
        number: of the signal.
        saved: whether a checkpoint of the last finished step was saved.
    """

    def __init__(self, number: int, *, saved: bool = False) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


@contextmanager
def signals(say: str) -> Iterator[None]:
    """Within this context the first Ctrl-C or SIGTERM lets a training loop finish its step and save.

    The second one, and any that comes outside of a training loop, stops at once.

    Args:
        say: printed on stderr when a training loop has been asked.

    Raises:
        Stopped: from the training loop, or from wherever the program was.
    """

    def note(number: int, frame: FrameType | None) -> None:
        if _requests or not _loops:
            raise Stopped(number)
        _requests.append(number)
        os.write(2, f"\n{say}\n".encode())  # print could be interrupted inside itself

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        _requests.clear()
        _loops.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def training_loop(stage: str) -> Iterator[None]:
    """Around a loop that asks `requested` after each step."""
    _loops.append(stage)
    try:
        yield
    finally:
        if stage in _loops:
            _loops.remove(stage)


def requested() -> bool:
    """Whether a training loop should save a checkpoint and call `stop`."""
    return bool(_requests)


def stop() -> None:
    """End a training loop that has saved its checkpoint.

    Raises:
        Stopped: always.
    """
    raise Stopped(_requests[0], saved=True)
