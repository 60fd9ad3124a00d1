"""The processes of one job, as torchrun starts them: each computes a share of the rows, and rank 0 writes the files.

All ranks run the same loop on the same global batch. What differs is which rows of it a rank computes. Sums, figures
and sampled responses are exchanged, so that every rank takes the same decisions. With one process, every function here
returns at once.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from jaxtyping import Float
from torch import Tensor

from plaudit import files
from plaudit.batches import Rollout, join_responses, join_rollouts, to_device
from plaudit.errors import PlauditError, RunError

T = TypeVar("T")
# Ranks wait for each other while rank 0 saves a model or judges responses. A rank that has died is noticed sooner, by
# torchrun.
_TIMEOUT = timedelta(minutes=30)
_JOINING = timedelta(seconds=90)  # until all processes of a job are there
_BUCKET = 2**24  # numbers that are added up in one call


def started_by_torchrun() -> int:
    """How many processes the job has, by the environment that torchrun makes."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def start() -> None:
    """Join the job, if there is one; ranks other than 0 write no files from here on.

    Raises:
        RunError: the other processes do not appear.
    """
    if started_by_torchrun() == 1 or _joined():
        return
    if not torch_dist.is_available():
        raise RunError("this build of torch has no torch.distributed; start plaudit without torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    if not _rank_0_answers():
        raise RunError(_alone())
    try:
        store, own, of = next(torch_dist.rendezvous("env://", timeout=_JOINING))
        store.set(f"plaudit/{own}", "here")
        store.wait([f"plaudit/{each}" for each in range(of)], _JOINING)
    except (torch_dist.DistError, ValueError):
        raise RunError(_alone()) from None
    torch_dist.init_process_group(backend, store=store, rank=own, world_size=of, timeout=_TIMEOUT)
    # Its threads must end before the interpreter does, which would abort otherwise.
    atexit.register(torch_dist.destroy_process_group)
    if rank():
        files.write_nothing()


def _rank_0_answers() -> bool:
    """Whether this process is rank 0, or finds it. torch would print a page of addresses where it does not."""
    until, found = time.monotonic() + _JOINING.seconds, os.environ.get("RANK", "0") == "0"
    address = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT") or 0)
    while not found and time.monotonic() < until:
        try:
            socket.create_connection(address, timeout=1).close()
            found = True
        except OSError:
            time.sleep(0.5)
    return found


def _alone() -> str:
    place = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return (
        f"WORLD_SIZE is {started_by_torchrun()}, but the processes of the job have not met at {place} within "
        f"{_JOINING.seconds} s; start all of them, as torchrun does"
    )


def rank() -> int:
    """The number of this process in the job, from 0."""
    return torch_dist.get_rank() if _joined() else 0


def size() -> int:
    """How many processes the job has."""
    return torch_dist.get_world_size() if _joined() else 1


def _joined() -> bool:
    """Whether this process is one of several; some builds of torch have no torch.distributed."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def rows(n: int) -> range:
    """Which of n rows this rank computes; shares differ by one row at most, and may be empty."""
    return range(n * rank() // size(), n * (rank() + 1) // size())


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    torch_dist.all_gather_object(found, value)
    return found


def each(items: Sequence[Any], call: Callable[[Any], T]) -> list[T]:
    """What a call makes of each item, in order; every rank calls it for a share of them."""
    mine = together(lambda: {i: call(items[i]) for i in range(rank(), len(items), size())})
    found: dict[int, T] = {}
    for part in gather(mine):
        found |= part
    return [found[i] for i in range(len(items))]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    return any(gather(flag))


def barrier() -> None:
    """Wait until every rank is here, and rank 0 has written what the others read next."""
    if size() > 1:
        gather(None)


def on_main(call: Callable[[], T]) -> T:
    """What a call returns on rank 0, given to all ranks; where it raises, every rank raises."""
    if size() == 1:
        return call()
    value, error = None, None
    if rank() == 0:
        try:
            value = call()
        except Exception as raised:  # the other ranks are waiting
            error = raised
    content: list[Any] = [value, _sent(error)]
    torch_dist.broadcast_object_list(content, src=0)
    if content[1] is not None:
        raise _everywhere(error or content[1])
    return content[0]


def together(call: Callable[[], T]) -> T:
    """What a call returns on this rank; where it raises on any rank, every rank raises the same error."""
    if size() == 1:
        return call()
    value, error = None, None
    try:
        value = call()
    except Exception as raised:  # the other ranks would wait for this one
        error = raised
    errors = gather(_sent(error))
    for found in errors:
        if found is not None:
            raise _everywhere(error or found)
    return value  # type: ignore[return-value]


def _sent(error: Exception | None) -> Exception | None:
    """An error as the other ranks get it. Those of other libraries may not survive the way, so their text is sent."""
    if error is None or isinstance(error, PlauditError):
        return error
    return RunError(f"rank {rank()} failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _everywhere(error: Exception) -> Exception:
    """The error, marked as one that every rank raises, so that one of them is enough to show it."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


@torch.no_grad()
def share_weights(parameters: Iterable[Tensor]) -> None:
    """Give every rank the weights of rank 0 that learn, to the last bit: what ranks have fitted may differ there."""
    if size() > 1:
        for parameter in parameters:
            if parameter.requires_grad:
                torch_dist.broadcast(parameter.data, src=0)


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all ranks, the same bits on each; a rank without rows has zeros."""
    if size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    there = gather([parameter.grad is not None for parameter in trained])
    bucket: list[Tensor] = []
    for parameter, anywhere in zip(trained, map(any, zip(*there, strict=True)), strict=True):
        if not anywhere:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        full = sum(g.numel() for g in bucket) + parameter.grad.numel() > _BUCKET
        if bucket and (full or bucket[0].dtype != parameter.grad.dtype):
            _add(bucket)
            bucket = []
        bucket.append(parameter.grad)
    _add(bucket)


def _add(gradients: Sequence[Tensor]) -> None:
    """Add up some gradients of one format in one call."""
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch_dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def added_figures(figures: dict[str, float]) -> dict[str, float]:
    """The sums of figures over all ranks; maxima where their name ends in `_max`. A rank without rows has none."""
    found: dict[str, float] = {}
    for each in gather(figures):
        for name, value in each.items():
            known = found.get(name)
            if known is None:
                found[name] = value
            else:
                found[name] = max(known, value) if name.endswith("_max") else known + value
    return found


def gathered(
    n: int, batch: Any, measured: dict[str, Tensor], *states: Float[Tensor, "N D"], pad_id: int
) -> tuple[Any, dict[str, Tensor], Any]:
    """What all ranks have made of their share of n rows, on every rank: responses or a rollout, scores, and states."""
    if size() == 1:
        return batch, measured, states[0] if states else None
    device, cpu = next(iter(measured.values())).device, torch.device("cpu")
    own = to_device(batch, cpu), {name: x.cpu() for name, x in measured.items()}, [x.cpu() for x in states]
    parts = [part for part in gather(own if rows(n) else None) if part is not None]
    batches, columns, others = zip(*parts, strict=True)
    join = join_rollouts if isinstance(batch, Rollout) else join_responses
    joined = to_device(join(batches, pad_id), device)
    scores = {name: torch.cat([column[name] for column in columns]).to(device) for name in measured}
    return joined, scores, torch.cat([x for (x,) in others]).to(device) if states else None
