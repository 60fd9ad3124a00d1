"""Calls of a user's code with a time limit. The limit holds, and Ctrl-C works, whatever the code waits for."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class TooLate(Exception):
    """A call has not returned in time; `places` are the files and lines where it is, the innermost first."""

    def __init__(self, places: list[tuple[str, int]]) -> None:
        super().__init__("not in time")
        self.places = places


class _Worker:
    """A thread that makes one call after the other.

    It is one thread, because what a file opens when it is imported may belong to its thread (a database, an event
    loop). It is a daemon, because a call that hangs cannot be ended: it must not keep the process from ending.
    """

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="plaudit-reward", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (item := self.calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # sys.exit() too: it is the user's code
                future.set_exception(error)
            del item, call, future  # it keeps no texts alive while it waits


_worker: _Worker | None = None


def in_time(call: Callable[[], Result], seconds: float | None) -> Result:
    """What `call` returns or raises; it runs in the thread of the user's code.

    Args:
        seconds: None for no limit.

    Raises:
        TooLate: it has not returned after so many seconds. It goes on, and a later call gets a new thread.
    """
    global _worker
    if _worker is None:
        _worker = _Worker()
    worker = _worker
    if threading.current_thread() is worker.thread:  # user's code that calls another reward
        return call()
    future: Future[Result] = Future()
    worker.calls.put((call, future))
    end = math.inf if seconds is None else time.monotonic() + seconds
    try:
        while not future.done():
            try:
                # In slices, because on Windows Ctrl-C does not interrupt a wait.
                return future.result(max(0.0, min(1.0, end - time.monotonic())))
            except NotYet:
                if time.monotonic() >= end and not future.done():
                    places = _places(worker.thread)
                    _end(worker.thread)
                    raise TooLate(places) from None
        return future.result()
    finally:
        if not future.done():  # it hangs, or Ctrl-C interrupted the wait for it
            worker.calls.put(None)
            _worker = None


def _places(thread: threading.Thread) -> list[tuple[str, int]]:
    frame = sys._current_frames().get(thread.ident or 0)
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return places


def _end(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread: it ends a loop in Python, which would slow the process down, and no other wait."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
