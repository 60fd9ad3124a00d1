"""How far a stage is with what it does before its first step, for those who show progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Listener: TypeAlias = Callable[[str, float], None]  # of what is done, and the share of it that is done
_listeners: list[Listener] = []


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Within this context, `announce` calls the listener."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(what: str, share: float) -> None:
    """Tell whoever listens that this share of some work is done."""
    for listener in _listeners:
        listener(what, share)
