"""Serve one labelling project until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.web import server

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from plaudit.feedback.visits import Site


def serve(
    folder: str | Path,
    site: Site,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Sequence[str] = (),
    ready: Callable[[Site], None] | None = None,
) -> None:
    """Serve the project in `folder`; returns after Ctrl-C or SIGTERM.

    Args:
        folder: of the project, such as RUN/feedback; made where there is none.
        site: what the pages say and ask. Its address is set here.
        host, port, names: as in `plaudit.web.server.serve`. Each person still needs the link or the join code.
        ready: called once people can open the page; by default it prints the links.

    Raises:
        FeedbackError: the address cannot be used, or the project cannot be opened.
    """

    @contextmanager
    def opened(address: str) -> Iterator[ASGIApp]:
        # These imports take a few tenths of a second, in which a browser can already wait at the socket.
        from plaudit.feedback.app import make_app
        from plaudit.feedback.store import Store

        with closing(Store.open(folder)) as store:
            here = replace(site, address=address)
            app = make_app(store, here)
            (ready or announce)(here)
            yield app

    server.serve(opened, host, port, names)


def announce(site: Site) -> None:
    """Print the links."""
    print(f"Open {site.link}", flush=True)
    if site.code is not None:
        print(f"Others join at {site.address}/join with the code {site.code}", flush=True)
