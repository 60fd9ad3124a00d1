"""Forked processes that run one plaudit command each, and what became of them.

Python, torch and transformers take seconds to import. The parent imports them once, and starts no threads that a fork
would lose.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes.trials import Problem

LIMIT = 60.0  # seconds; the longest command takes about four on an idle machine
_TICK = 0.003  # seconds between two looks at a child


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        words: of the command.
        code: its exit code; minus the signal's number if a signal killed it.
        output: stdout and stderr.
        seconds: from fork to end.
        hung: whether it was killed because it took longer than its limit.
    """

    words: tuple[str, ...]
    code: int
    output: str
    seconds: float
    hung: bool

    @property
    def last_line(self) -> str:
        """The last line that is not blank."""
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "")

    @property
    def refused(self) -> bool:
        """Whether it ended with exit code 1 or 2 and one line about the error."""
        errors = [line for line in self.output.splitlines() if line.startswith("plaudit: error:")]
        return self.code in (1, 2) and len(errors) == 1 and self.last_line == errors[0]

    def accidents(self) -> list[Problem]:
        """Tracebacks and hangs."""
        command = " ".join(self.words)
        if self.hung:
            return [Problem("hang", f"`{command}` did not end in time; last line: {self.last_line}")]
        if "Traceback (most recent call last)" in self.output:
            return [Problem("traceback", f"`{command}`: {self.last_line}")]
        return []

    def unless_refused(self) -> list[Problem]:
        """What is wrong with an ending that should be a refusal."""
        if found := self.accidents():
            return found
        if self.refused:
            return []
        return [Problem("unclear", f"`{' '.join(self.words)}`: exit code {self.code}; last line: {self.last_line}")]

    def unless_done(self) -> list[Problem]:
        """What is wrong with an ending that should be exit code 0."""
        if found := self.accidents():
            return found
        return [] if self.code == 0 else [Problem("unclear", f"`{' '.join(self.words)}`: {self.last_line}")]


def isolated(check: Callable[[], list[Problem]], limit: float = 10 * LIMIT) -> list[Problem]:
    """The problems that `check` finds in a forked process; a hang if it takes longer than `limit` seconds."""
    with tempfile.TemporaryFile() as answer:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            try:
                found = check()
            except BaseException:
                found = [Problem("unclear", f"the trial itself fails: {traceback.format_exc()}")]
            os.write(answer.fileno(), json.dumps(found).encode())
            os._exit(0)
        end = time.monotonic() + limit
        while not (status := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return [Problem("hang", f"no end after {limit:.0f} s")]
            time.sleep(_TICK)
        if status[1]:
            return [Problem("unclear", f"the process of the trial ended with {os.waitstatus_to_exitcode(status[1])}")]
        answer.seek(0)
        return [Problem(*problem) for problem in json.load(answer)]


class Child:
    """A forked process that runs one command in a folder.

    Args:
        words: of the command, without "plaudit".
        folder: its current directory.
        prepare: called in the child before the command.
        stdin: what the child reads there.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, prepare: Callable[[], None] = lambda: None, stdin: str = ""
    ) -> None:
        self.words, self.began, self._code = tuple(words), time.monotonic(), None
        self._log, self._stdin = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._stdin.write(stdin.encode())
        self._stdin.seek(0)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_child(folder, prepare)

    def _be_the_child(self, folder: Path, prepare: Callable[[], None]) -> None:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for source, target in ((self._stdin, 0), (self._log, 1), (self._log, 2)):
                os.dup2(source.fileno(), target)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            os.chdir(folder)
            prepare()

            from plaudit.cli import main

            sys.argv = ["plaudit", *self.words]
            code = main()  # as the process of the command does
            for number in (signal.SIGINT, signal.SIGTERM):  # the command has ended; what follows is ours
                signal.signal(number, signal.SIG_IGN)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    code = 1
            os._exit(code)

    @property
    def output(self) -> str:
        """What it has written until now."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode("utf-8", "replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is None

    def wait_until(self, true: Callable[[], bool], limit: float = LIMIT) -> None:
        """Wait until something is true, the child has ended, or `limit` seconds have passed."""
        end = time.monotonic() + limit
        while self.running() and not true() and time.monotonic() < end:
            time.sleep(_TICK)

    def sleep(self, seconds: float) -> None:
        """Wait from the child's first line of output on; shorter if it ends."""
        self.wait_until(lambda: os.fstat(self._log.fileno()).st_size > 0)
        self.wait_until(lambda: False, seconds)

    def send(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.running():
            os.kill(self.pid, number)

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for its end; kill it after `limit` seconds."""
        self.wait_until(lambda: False, limit)
        hung = self.running()
        while self.running():
            self.send(signal.SIGKILL)
            time.sleep(_TICK)
        ended = Ended(self.words, self._code, self.output, time.monotonic() - self.began, hung)
        self._log.close()
        self._stdin.close()
        return ended
