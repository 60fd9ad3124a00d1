"""Serve the live page of a run until Ctrl-C."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.errors import RunError
from plaudit.web import server

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def watch(
    run: Path,
    other: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str], None] = lambda link: print(f"Open {link}", flush=True),
) -> None:
    """Serve the live page of a run directory, beside another one; returns after Ctrl-C or SIGTERM.

    Args:
        run: it may still be empty, or not there yet: the page says so, and shows what comes.
        host, port: as in `plaudit.web.server.serve`.
        ready: called with the link once the page can be opened; by default it prints the link.

    Raises:
        RunError: `run` is a file, or `other` is no folder.
        FeedbackError: the address cannot be used.
    """
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; plaudit watch takes a run directory")
    if other is not None and not other.is_dir():
        raise RunError(f"{other}: no such run directory; give the folder that --out had")

    @contextmanager
    def opened(address: str) -> Iterator[ASGIApp]:
        from plaudit.web.security import new_token

        ready(f"{address}/?token={(token := new_token())}")
        # These imports take a few tenths of a second, in which a browser can already wait at the socket.
        from plaudit.monitor.app import PAGES, Watched, make_app
        from plaudit.web.door import behind_door

        # Browsers share cookies between the ports of one machine, so each run has a name of its own.
        name = f"plaudit-watch-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]}"
        yield behind_door(make_app(run, other), PAGES, Watched(run, other).title, token, name)

    server.serve(opened, host, port)
