"""How the processes of a job meet: by a store that all of them can reach, under a name that only this attempt has.

torchrun keeps one store while it starts failed processes again. What an earlier attempt has left in it, such as the
addresses of processes that are gone, must not be read by the next one.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any

import torch.distributed as torch_dist

from plaudit.errors import RunError

JOINING = timedelta(seconds=90)  # until all processes of a job are there
_PAUSE = 0.1


def place() -> tuple[str, int]:
    """Host and port of the job's store."""
    return os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT") or 0)


def open_store(*, serve: bool) -> Any:
    """The job's store; rank 0 serves it, unless torchrun does.

    Raises:
        RunError: the other processes do not appear.
    """
    if not _rank_0_answers():
        raise RunError(_alone())
    try:
        if serve:
            return next(torch_dist.rendezvous("env://", timeout=JOINING))[0]
        return torch_dist.TCPStore(*place(), is_master=False, timeout=JOINING)
    except (torch_dist.DistError, ValueError):
        raise RunError(_alone()) from None


def meet(store: Any, rank: int, size: int) -> str:
    """A name that all processes of this attempt agree on, and no other attempt has.

    Each process publishes a token of its own. Rank 0 answers every token that it finds with the name: those of an
    earlier attempt as well, but nobody takes these answers. When all have taken one, the meeting is over.

    Raises:
        RunError: the other processes do not appear.
    """
    try:
        if rank == 0:
            return _host(store, size)
        token = secrets.token_hex(8)
        store.set(f"plaudit/hello/{rank}", token)
        store.wait([f"plaudit/answer/{token}"], JOINING)
        name = store.get(f"plaudit/answer/{token}").decode()
        store.set(f"plaudit/{name}/here/{rank}", "")
        store.wait([f"plaudit/{name}/all"], JOINING)
        return name
    except torch_dist.DistError:
        raise RunError(_alone()) from None


def _host(store: Any, size: int) -> str:
    name, until = secrets.token_hex(8), time.monotonic() + JOINING.total_seconds()
    missing, answered = set(range(1, size)), set()
    while missing:
        if time.monotonic() > until:
            raise RunError(_alone())
        for rank in sorted(missing):
            if store.check([f"plaudit/{name}/here/{rank}"]):
                missing.remove(rank)
            elif store.check([f"plaudit/hello/{rank}"]):
                token = store.get(f"plaudit/hello/{rank}").decode()
                if token not in answered:
                    store.set(f"plaudit/answer/{token}", name)
                    answered.add(token)
        time.sleep(_PAUSE)
    store.set(f"plaudit/{name}/all", "")
    return name


def _rank_0_answers() -> bool:
    """Whether this process is rank 0, or finds it. torch would print a page of addresses where it does not."""
    until, found = time.monotonic() + JOINING.total_seconds(), os.environ.get("RANK", "0") == "0"
    while not found and time.monotonic() < until:
        try:
            socket.create_connection(place(), timeout=1).close()
            found = True
        except OSError:
            time.sleep(0.5)
    return found


def _alone() -> str:
    host, port = place()
    return (
        f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but the processes of the job have not met at {host}:{port} "
        f"within {JOINING.total_seconds():.0f} s; start all of them, as torchrun does"
    )
