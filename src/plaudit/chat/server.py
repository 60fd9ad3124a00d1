"""Serve the page of two models until Ctrl-C, with the process that opens them."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.chat.models import chosen, defaults
from plaudit.chat.session import Session
from plaudit.chat.worker import LONGEST, Worker
from plaudit.web import server

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PROCESS = (sys.executable, "-m", "plaudit.answering.process")


def chat(
    run: Path,
    models: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    longest: float = LONGEST,
    ready: Callable[[str], None] = lambda link: print(f"Open {link}", flush=True),
) -> None:
    """Serve the page on which two models of a run answer; returns after Ctrl-C or SIGTERM, and ends their process.

    Args:
        models: two names: stages of the run, `model` for its base model, `policy`, a folder or a hub id. By default SFT
            (or the base model) and the policy.
        host, port: as in `plaudit.web.server.serve`.
        longest: seconds for the answers to one prompt.
        ready: called with the link once the page can be opened; by default it prints the link.

    Raises:
        RunError: there is no run, or one of the models has not been trained.
        FeedbackError: the address cannot be used.
    """
    names = chosen(run, models)
    settings = defaults(run, names)

    @contextmanager
    def opened(address: str) -> Iterator[ASGIApp]:
        from plaudit.web.security import new_token

        session = Session(names)
        worker = Worker([*PROCESS, "--", str(run), *names], session, longest, _say)
        worker.start()
        try:
            ready(f"{address}/?token={(token := new_token())}")
            # These imports take a few tenths of a second, in which a browser can already wait at the socket.
            from plaudit.chat.app import PAGES, Chat
            from plaudit.web.door import behind_door

            title = run.resolve().name
            command = shlex.join(["plaudit", "chat", str(run), "--models", ",".join(names)])
            # Browsers share cookies between the ports of one machine, so each run has a name of its own.
            cookie = f"plaudit-chat-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]}"
            app = Chat(session, worker, settings, title, command).app()
            yield behind_door(app, PAGES, title, token, cookie)
        finally:
            worker.close()

    server.serve(opened, host, port)


def _say(line: str) -> None:
    print(f"plaudit: {line}", file=sys.stderr, flush=True)
