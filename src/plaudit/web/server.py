"""Serve an app until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from plaudit.errors import FeedbackError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PORT = 8765  # where a free port is looked for first
_TRIES = 20


def serve(
    opened: Callable[[str], AbstractContextManager[ASGIApp]],
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve an app, guarded; returns after Ctrl-C or SIGTERM.

    Args:
        opened: gives the app at an address such as http://127.0.0.1:8765. A browser can already wait at the address
            when this is called, so what takes long to import belongs in it.
        host: the address to listen at. Any other than 127.0.0.1 lets other machines reach the server.
        port: to listen at; by default 8765, or the next one that is free.
        names: host names by which people open the page, such as that of this machine.

    Raises:
        FeedbackError: the address cannot be used.
    """
    with _listen(host, port) as listening:
        import uvicorn

        from plaudit.web.security import guard

        with opened(_address(host, listening.getsockname()[1])) as app:
            config = uvicorn.Config(
                guard(app, names, anywhere=not _is_loopback(host)),
                log_level="warning",
                access_log=False,  # it would write tokens into the terminal
                proxy_headers=False,  # anybody can send them
                server_header=False,
                timeout_graceful_shutdown=5,
                lifespan="on",
            )
            with suppress(KeyboardInterrupt), _terminated_as_interrupted(), _switching_often():
                uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Uvicorn raises the signal that ended it once more: SIGTERM would then kill this process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signals come here
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _switching_often() -> Iterator[None]:
    """Let threads take turns after half a millisecond: by default a vote waits ten times as long for each of them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = ""
    for candidate in range(PORT, PORT + _TRIES) if port is None else [port]:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name != "nt":  # there it would let two servers have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(1024)
            return listening
        except (OSError, OverflowError) as error:
            listening.close()
            problem = getattr(error, "strerror", None) or str(error)
    where = f"{host}:{port}" if port is not None else f"{host}:{PORT} to {PORT + _TRIES - 1}"
    raise FeedbackError(f"{where}: {problem}; choose another with --port or --host")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str, port: int) -> str:
    """Where people open the page: for "every address of this machine", the one that others reach."""
    if host in ("0.0.0.0", "::", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which address a packet would leave from
                host = probe.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
