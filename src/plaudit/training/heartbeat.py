"""Whether the other ranks of a job live: each says so every two seconds, and the job ends when one falls silent.

torchrun notices a process that ends on its own host. Nobody notices one that hangs, or a host that is gone: the others
would wait for it in a collective, which no exception can interrupt. So two threads of each rank look after it:

- one sets this rank's beat in the job's store. On rank 0 it looks at the beats of all ranks, and the verdict on a rank
  that is silent goes into the store; on the others it looks at that verdict, and at the beat of rank 0.
- one counts the seconds since the store has answered. A host that is cut off finds that out by itself.

Silence is counted in one's own looks: a rank that was itself held up, as by a suspended laptop, accuses nobody.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plaudit.errors import PlauditError, RankError, in_one_line
from plaudit.training import stopping

EVERY = 2.0  # seconds between two beats
SILENT = 30.0  # seconds without a beat after which a rank is given up
LOST = 8.0  # the same after a connection broke or a rank failed: most such jobs end by themselves
_PATIENCE = 4.0  # seconds that a thread or the program has for its last words
_EXCHANGE = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "socket")

say: list[Callable[[str], None]] = []  # calls that print the line that ends the job; otherwise it is printed as it is
_records: list[Callable[[RankError], None]] = []  # calls that record why it has ended
_own: Heartbeat | None = None


class Heartbeat:
    """The beats of one rank.

    Args:
        store: a connection to the job's store that nobody else uses: a call waits for the one before it.
        place: host and port of the store, for messages.
    """

    def __init__(self, store: Any, rank: int, size: int, place: str) -> None:
        self._store, self._rank, self._size, self._place = store, rank, size, place
        self._beat: dict[str, Any] = {
            "count": 0, "host": platform.node(), "space": _process_space(), "pid": os.getpid(), "parent": os.getppid(),
            "local": int(os.environ.get("LOCAL_RANK") or rank), "error": "", "left": False, "lost": False,
        }  # fmt: skip
        self._counts, self._silence = [-1] * size, [0.0] * size
        self._looked = time.monotonic()
        self._unheard = 0.0  # seconds since the store has answered
        self._lost = False  # whether some rank has lost a connection
        self._hurry, self._over, self._judged = threading.Event(), threading.Event(), threading.Event()
        self._verdict = ""
        self._shown = True  # whether this rank shows the verdict
        self._explained = False
        self._send()
        if rank == 0:
            store.set("verdict", "")
        self._of_rank_0 = json.loads(store.get("beat/0"))
        self._threads = [threading.Thread(target=call, daemon=True) for call in (self._talk, self._listen)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        self._beat["count"] += 1
        self._store.set(f"beat/{self._rank}", json.dumps(self._beat))

    def _talk(self) -> None:
        """Beat, and look at the others, until this rank leaves."""
        try:
            while not self._judged.is_set():
                if self._hurry.wait(EVERY) and not self._beat["left"]:
                    time.sleep(EVERY / 4)
                leaving = self._beat["left"]  # it may be set while this beat is on its way
                self._send()
                if leaving:
                    return
                self._look()
                self._unheard = 0.0
        except RuntimeError:  # the store has closed the connection: `_listen` counts the seconds
            self._lost = True

    def _look(self) -> None:
        line = self._store.get("verdict").decode()
        watched = range(self._size) if self._rank == 0 or self._lost else range(1)
        beats = [json.loads(text) for text in self._store.multi_get([f"beat/{rank}" for rank in watched])]
        self._of_rank_0 = beats[0]
        if line:
            number, _, line = line.partition(" ")
            return self._end(line, json.loads(self._store.get(f"beat/{number}")))
        self._lost = self._lost or any(beat["lost"] for beat in beats)
        now = time.monotonic()
        since, self._looked = min(now - self._looked, EVERY), now
        for rank, beat in enumerate(beats):
            if rank == self._rank:
                continue
            self._silence[rank] = 0.0 if beat["count"] != self._counts[rank] else self._silence[rank] + since
            self._counts[rank] = beat["count"]
            if line := self._judge(rank, beat):
                self._store.set("verdict", f"{rank} {line}")
                return self._end(line, beat)

    def _judge(self, rank: int, beat: dict[str, Any]) -> str:
        """What is wrong with a rank; "" if it lives, or has finished."""
        who, silence = f"rank {rank} on {beat['host']}", self._silence[rank]
        if beat["left"]:  # one that failed together with the others leaves them the time to say so themselves
            late = beat["error"] and silence >= LOST
            return f"{who} has ended: {beat['error']}" if late else ""
        if self._sibling(beat) and not _exists(beat["pid"]):
            return f"{who} has died (process {beat['pid']})"
        if silence < (LOST if self._lost else SILENT):
            return ""
        return f"{who} has not been heard of for {silence:.0f} s: its process hangs, or its host or network is gone"

    def _listen(self) -> None:
        """Count the seconds since the store has answered; at most one at a time, whatever held up this rank."""
        while not self._over.wait(1.0):
            self._unheard += 1.0
            if self._unheard >= (LOST if self._lost else SILENT):
                away = f"{self._place}, where the ranks meet, has not answered for {self._unheard:.0f} s"
                self._end(f"{away}: that host or the network to it is gone, or torchrun was killed there", None)

    def _sibling(self, beat: dict[str, Any]) -> bool:
        """Whether the same torchrun has started it."""
        return all(beat[name] == self._beat[name] for name in ("host", "space", "parent"))

    def _end(self, line: str, beat: dict[str, Any] | None) -> None:
        """End the job: by the main thread if it waits for the verdict, otherwise at once."""
        if self._over.is_set():
            return
        self._over.set()
        if beat is None and self._beat["local"] == 0:
            _end_torchrun()
        if beat is None and self._sibling(self._of_rank_0) and not _exists(self._of_rank_0["pid"]):
            beat = self._of_rank_0
        near = beat if beat and self._sibling(beat) else None
        # One rank of each host shows it: the first, or the second where the first is the one that is silent.
        self._verdict, self._shown = line, self._beat["local"] == (1 if near and near["local"] == 0 else 0)
        self._judged.set()
        if near and not near["left"]:
            with suppress(OSError):
                os.kill(near["pid"], signal.SIGKILL)  # torchrun would wait another 30 s for a process that hangs
        if self._explained:
            time.sleep(2 * _PATIENCE)
        else:
            self._tell()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)  # the main thread is in a collective

    def _tell(self) -> None:
        for record in reversed(_records):
            with suppress(Exception):
                record(RankError(self._verdict))
        if self._shown:
            line = say[-1] if say else lambda text: print(f"plaudit: error: {text}", file=sys.stderr)
            line(self._verdict)

    def explain(self, error: Exception) -> RankError:
        """What stands behind a connection that broke: waits for the verdict, and asks for it soon."""
        self._explained = self._lost = self._beat["lost"] = True
        self._hurry.set()
        until = time.monotonic() + LOST + _PATIENCE
        while not self._judged.is_set() and time.monotonic() < until:
            try:
                self._judged.wait(0.2)
            except stopping.Stopped:  # by torchrun, which ends all ranks of a host when one has ended
                until = min(until, time.monotonic() + _PATIENCE / 2)
        text = self._verdict or f"the connection to another rank broke: {' '.join(str(error).split())[:200]}"
        found = RankError(text)
        found.everywhere = not (self._verdict and self._shown and self._beat["local"])  # type: ignore[attr-defined]
        return found

    def leave(self, error: str) -> None:
        """Stop, and say whether the others need to know why."""
        self._beat["error"], self._beat["left"] = error[:500], True
        self._hurry.set()
        if not self._judged.is_set() and threading.current_thread() not in self._threads:
            # A thread that is inside torch when the interpreter ends would abort the process. It may wait for a busy
            # store; where that is gone, `_listen` ends the process first.
            self._threads[0].join(2 * SILENT)
        self._over.set()


def _process_space() -> str:
    """Within which numbers of processes mean the same: two containers of a host may have the same host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError):  # where there is /proc: one that has died, and whose parent has not looked yet
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True


def _end_torchrun() -> None:
    """Kill the torchrun above this process if it does not end by itself: it waits for the store as well, for minutes.

    It would not see another signal there. A process that outlives this one does it.
    """
    parent = os.getppid()
    with suppress(OSError):
        words = Path(f"/proc/{parent}/cmdline").read_bytes()
        if b"torch.distributed.run" in words or b"torchrun" in words:
            wait = f"sleep {2 * _PATIENCE}; kill -9 {parent}"
            subprocess.Popen(
                ["sh", "-c", wait], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )


def start(store: Any, rank: int, size: int, place: str) -> None:
    """Begin to beat, until the program ends."""
    global _own
    _own = Heartbeat(store, rank, size, place)
    atexit.register(leave)


def leave(error: str = "") -> None:
    """This rank ends; `error` in one line if it failed, by default what ends the program."""
    global _own
    own, _own = _own, None
    raised = getattr(sys, "last_value", None)
    if own is not None:
        own.leave(error or (described(raised) if isinstance(raised, Exception) else ""))


def explained(error: Exception) -> Exception:
    """The error; where it comes from an exchange with ranks that are gone, one that says which, and why."""
    if _own is None or isinstance(error, PlauditError) or not _of_an_exchange(error):
        return error
    return _own.explain(error)


def _of_an_exchange(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and (type(error).__name__.startswith("Dist") or any(
        word in text for word in _EXCHANGE
    ))  # fmt: skip


def described(error: Exception) -> str:
    """An error in one line."""
    return in_one_line(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def recorded_by(record: Callable[[RankError], None]) -> Iterator[None]:
    """Within this context, `record` is called before the job ends because a rank is gone."""
    _records.append(record)
    try:
        yield
    finally:
        _records.remove(record)
