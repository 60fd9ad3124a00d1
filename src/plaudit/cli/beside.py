"""A process that works beside a page, and tells the page how it ended."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def beside(command: list[str], folder: Path, key: str) -> Iterator[None]:
    """A process that runs at the same time, and ends with this one. What it prints is in log.txt in `folder`.

    When it ends by itself and has not said why, the page says it, under its `key` of the progress.
    """
    log = folder / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        stopping = threading.Event()

        def watch() -> None:
            code = process.wait()
            if not stopping.is_set():
                _tell_end(folder, key, code, log)

        watcher = threading.Thread(target=watch, name="beside", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stopping.set()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(10)
            watcher.join(10)


def _tell_end(folder: Path, key: str, code: int, log: Path) -> None:
    """Tell the page that the process beside it has ended before its work was done, and how."""
    from plaudit.feedback.entries import ERROR
    from plaudit.feedback.store import Store

    with contextlib.closing(Store.open(folder)) as store:
        last = store.progress()[key]
        if last.done >= last.total or last.failed:
            return
        how = f"was killed by signal {-code}, perhaps because memory ran out" if code < 0 else f"ended with code {code}"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
        text = f"{ERROR}the process that writes pairs {how}; the last line in {log.name} is: {lines[-1][:300]}"
        store.set_progress(key, last.done, last.total, text)
    print(f"plaudit: {text}", file=sys.stderr)
