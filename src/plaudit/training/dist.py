"""The processes of one job, as torchrun starts them: each computes a share of the rows, and rank 0 writes the files.

All ranks run the same loop on the same global batch. What differs is which rows of it a rank computes. Sums, figures
and sampled responses are exchanged, so that every rank takes the same decisions. With one process, every function here
returns at once.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from jaxtyping import Float
from torch import Tensor

from plaudit import files
from plaudit.batches import Rollout, join_responses, join_rollouts, to_device
from plaudit.errors import PlauditError, RewardError, RunError
from plaudit.models import sharding
from plaudit.training import heartbeat, meeting

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
# Ranks wait for each other while rank 0 saves a model or judges responses. heartbeat.py notices sooner if one is gone.
_TIMEOUT = timedelta(minutes=30)
_BUCKET = 2**24  # numbers that are added up in one call
_store: Any = None  # of the job; torchrun keeps it while it starts processes again
_attempt = ""  # to start them: a name that no other attempt has
_opened = 0  # run directories


def started_by_torchrun() -> int:
    """How many processes the job has, by the environment that torchrun makes."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def on_this_host() -> int:
    """How many of them run on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def own_gpu() -> int:
    """The number of this process's GPU, which is torch's current one from here on.

    Some schedulers show all GPUs of a host to each of its processes, and others one, which then has number 0.
    """
    if started_by_torchrun() > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    return torch.cuda.current_device()


def start() -> None:
    """Join the job, if there is one; ranks other than 0 write no files from here on.

    Raises:
        RunError: the other processes do not appear.
    """
    global _store, _attempt
    if started_by_torchrun() == 1 or _attempt:
        return
    if not torch_dist.is_available():
        raise RunError("this build of torch has no torch.distributed; start plaudit without torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        own_gpu()
        backend = "cpu:gloo,cuda:nccl"
    own, of, others = int(os.environ["RANK"]), started_by_torchrun(), _joined()  # Ray Train makes the group itself
    _store = meeting.open_store(serve=not others)
    _attempt = meeting.meet(_store, own, of)
    prefix = f"plaudit/{_attempt}"
    if not others:
        group = torch_dist.PrefixStore(prefix, _store)
        torch_dist.init_process_group(backend, store=group, rank=own, world_size=of, timeout=_TIMEOUT)
        # Its threads must end before the interpreter does, which would abort otherwise.
        atexit.register(torch_dist.destroy_process_group)
    beats = torch_dist.PrefixStore(prefix, meeting.open_store(serve=False))
    heartbeat.start(beats, own, of, ":".join(map(str, meeting.place())))
    if own:
        files.write_nothing()


@contextmanager
def opening(what: str) -> Iterator[bool]:
    """Join the job, if there is one, to open a run directory: whether an earlier attempt of the job had opened it.

    Processes that torchrun starts in place of others have the same flags, and continue what those have begun.
    """
    global _opened
    start()
    _opened += 1
    mark = f"plaudit/opened/{_opened}/{what}"
    yield _store is not None and _store.check([mark])
    if _store is not None:
        _store.set(mark, _attempt)


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


def most_rows(n: int) -> int:
    """The most rows that a rank computes of n."""
    return -(-n // size())


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    torch_dist.all_gather_object(found, value)
    return found


def each(items: Sequence[Any], call: Callable[[Any], T]) -> list[T]:
    """What a call makes of each item, in order; every rank calls it for a share of them.

    All ranks make as many calls, because those of a sharded model wait for one another.
    """
    starts = range(0, len(items), size())
    mine = together(lambda: {i: call(items[i]) for i in (min(start + rank(), len(items) - 1) for start in starts)})
    found: dict[int, T] = {}
    for part in gather(mine):
        found |= part
    return [found[i] for i in range(len(items))]


def in_turn(items: Sequence[Any], call: Callable[[Any], T]) -> Iterator[tuple[Any, T]]:
    """Each item with what a call makes of it, in order, on every rank; one rank calls it for one item at a time."""
    for start in range(0, len(items), size()):
        some = items[start : start + size()]
        yield from zip(some, each(some, call), strict=True)


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
        raise everywhere(error or content[1])
    return content[0]


def together(call: Callable[[], T]) -> T:
    """What a call returns on this rank; where it raises on any rank, every rank raises the same error.

    Where a model is sharded, the others may wait for this rank within the model. Then an error ends this rank at once,
    and its heartbeat ends the others; but for the error of a reward, which is asked after the models.
    """
    if size() == 1:
        return call()
    value, error = None, None
    try:
        value = call()
    except Exception as raised:  # the other ranks would wait for this one
        if sharding.any_sharded() and not isinstance(raised, RewardError):
            raise
        error = raised
    for number, found in enumerate(gather(_sent(error))):
        if found is not None:
            raise everywhere(error if error is not None and number == rank() else found)
    return value  # type: ignore[return-value]


def _sent(error: Exception | None) -> Exception | None:
    """An error as the other ranks get it. Those of other libraries may not survive the way, so their text is sent."""
    if error is None or isinstance(error, PlauditError):
        return error
    return RunError(f"rank {rank()} failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}")


def everywhere(error: E) -> E:
    """The error, marked as one that every rank raises, so that one of them is enough to show it."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def wrap(model: Any, strategy: str) -> None:
    """Divide the weights of a model among the ranks, in place, where the strategy is "full"; see `models.sharding`."""
    if divides(strategy):
        sharding.shard(model)


def divides(strategy: str) -> bool:
    """Whether models are divided among the ranks."""
    return size() > 1 and strategy == "full"


@torch.no_grad()
def share_weights(parameters: Iterable[Tensor]) -> None:
    """Give every rank the weights of rank 0 that learn, to the last bit: what ranks have fitted may differ there."""
    if size() > 1:
        for parameter in parameters:
            if parameter.requires_grad and not sharding.is_share(parameter):
                torch_dist.broadcast(parameter.data, src=0)


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all ranks, the same bits on each; a rank without rows has zeros.

    The backward pass of a sharded model has done that for the weights that are divided.
    """
    if size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad and not sharding.is_share(p)]
    if not trained:
        return
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
    """Add up some gradients of one format in one call, in float32: bfloat16 would round the sum after every rank."""
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients]).float()
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
