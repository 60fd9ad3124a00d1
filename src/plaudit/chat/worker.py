"""The process that opens the models: it reads a line of JSON for each prompt, and writes lines with what it answers.

Whatever ends the page ends the process too, because its standard input ends then.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from plaudit.chat.session import Session, Turn

LONGEST = 300  # seconds for the answers to one prompt
_TO_END = 5  # seconds
_LONGEST_REASON = 300  # characters


class Worker:
    """Runs the process, gives it one prompt after the other, and puts its answers into the session.

    Args:
        command: that starts the process.
        longest: seconds for the answers to one prompt; a process that takes longer is ended.
        report: called with one line when the process has ended by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        session: Session,
        longest: float = LONGEST,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.command, self.session, self.longest, self.report = list(command), session, longest, report
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._current: Turn | None = None
        self._ended_because, self._closing = "", False
        self._lock = threading.RLock()
        session.changed = self._next

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            if self._closing or (self._thread is not None and self._thread.is_alive()):
                return
            with self.session.changing():
                self.session.state, self.session.problem = "loading", ""
                self.session.progress = (0, 1, "starting Python and PyTorch")
            self._ended_because = ""
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closing = True
            process, thread = self._process, self._thread
        if process is not None:
            _end(process)
        if thread is not None:
            thread.join(2 * _TO_END)

    def _run(self) -> None:
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            pipe = subprocess.PIPE
            try:
                process = subprocess.Popen(
                    self.command, stdin=pipe, stdout=pipe, stderr=log, encoding="utf-8", errors="replace",
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return self._stopped(f"the models' process cannot be started: {error.strerror}")
            with self._lock:
                self._process = process
                closing = self._closing
            if closing:
                _end(process)
            assert process.stdout is not None
            with process.stdout:
                try:
                    for message in _messages(process.stdout):
                        self._hear(message)
                except (KeyError, TypeError, IndexError) as error:
                    self._ended_because = f"their process wrote something else than expected: {error!r}"
            _end(process)
            self._stopped(self._ended_because or _last_line(log) or _code(process.returncode))

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        with self._lock, self.session.changing():
            if kind == "loading":
                self.session.progress = (message["done"], message["total"], message["message"])
            elif kind == "ready":
                self.session.about, self.session.state = message, "ready"
            elif kind == "error":
                self._ended_because = message["message"]
            elif self._current is not None and message.get("turn") == self._current.number:
                if kind == "answers":
                    self._current.sides[message["side"]] = message["answers"]
                elif kind in ("done", "failed"):
                    self._finish("answered" if kind == "done" else "failed", message.get("message", ""))
        self._next()

    def _finish(self, state: Any, problem: str) -> None:
        if self._current is not None:
            self._current.state, self._current.problem = state, problem
        self._current = None

    def _next(self) -> None:
        """Give the process the next prompt, if it has nothing to do."""
        with self._lock:
            if self._current is not None or self.session.state != "ready" or self._closing:
                return
            turn, process = next(iter(self.session.waiting), None), self._process
            if turn is None or process is None or process.stdin is None:
                return
            with self.session.changing():
                self._current, turn.state = turn, "answering"
            timer = threading.Timer(self.longest, self._overdue, (turn, process))
            timer.daemon = True
            timer.start()
            with suppress(OSError, ValueError):  # it has ended, which the reading thread sees
                process.stdin.write(json.dumps(self.session.request(turn)) + "\n")
                process.stdin.flush()

    def _overdue(self, turn: Turn, process: subprocess.Popen[str]) -> None:
        with self._lock:
            if self._current is not turn:
                return
            self._ended_because = (
                f"a prompt took longer than {self.longest:g} s; ask for shorter or fewer answers, or start with a "
                "longer --timeout"
            )
        process.kill()

    def _stopped(self, reason: str) -> None:
        reason = " ".join(reason.split()).removeprefix("plaudit: error: ")[:_LONGEST_REASON]
        with self._lock, self.session.changing():
            self._finish("failed", f"not answered: {reason}")
            self.session.state, self.session.problem = "stopped", reason
            self._process = None
        if not self._closing:
            self.report(f"the models have stopped: {reason}")


def _messages(out: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in out:
        with suppress(ValueError):  # half a line, of a process that was killed
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


def _end(process: subprocess.Popen[str]) -> None:
    """End a process: by the end of its input, or else by force."""
    with suppress(OSError, ValueError):
        assert process.stdin is not None
        process.stdin.close()
    for force in (process.terminate, process.kill):
        try:
            process.wait(_TO_END)
            return
        except subprocess.TimeoutExpired:
            force()
    process.wait()


def _last_line(log: Any) -> str:
    log.seek(0)
    return next((line for line in log.read()[-10_000:].splitlines()[::-1] if line.strip()), "")


def _code(code: int | None) -> str:
    return f"their process was killed by signal {-code}" if code and code < 0 else f"their process ended with {code}"
