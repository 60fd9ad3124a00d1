"""The optimizer, its learning-rate schedule, and the one place where a step is taken or refused."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from plaudit.batches import number_of_rows, select_rows, split_rows
from plaudit.errors import TrainingError
from plaudit.maths.losses import Loss
from plaudit.models.sharding import is_sharded, local
from plaudit.training import dist

# From a batch to (sum, count), and figures: sums over the same count, or maxima where the name ends in "_max".
BatchLoss = Callable[[Any], tuple[Loss, dict[str, Tensor]]]
# Of each model: the most rows of a microbatch that memory has room for, where it ran out, and lines that say so.
_room: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_notes: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


def adamw(model: Any, lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> torch.optim.Optimizer:
    """AdamW for a `Policy` or `RewardModel` that decays matrices, and no biases, norms or other vectors."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return model.engine.optimizer(model, groups, lr=lr, eps=eps)


def warmup_then_linear(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at step 0..total-1: a rise over `warmup` of the steps, then a fall to 0."""
    rising = max(1, round(warmup * total))
    return min((step + 1) / rising, (total - step) / max(1, total - rising + 1))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def accumulate(
    batch: Any, microbatch_size: int, loss: BatchLoss, count: int, where: str, model: Any = None
) -> dict[str, float]:
    """Set p.grad to the gradients of a batch's mean loss, a microbatch at a time.

    Every rank computes its share of the rows, and gets the gradients and figures of all of them. Where memory runs out,
    it starts again with microbatches of half as many rows, for this model from now on; not if the model is sharded.

    Args:
        microbatch_size: rows of a microbatch; 0 for the whole batch at once. The result is the same.
        count: what the sums are divided by: tokens or records of the whole batch.
        where: stage and step, for error messages.
        model: whose gradients these are; without it, a lack of memory is an error.

    Returns:
        `loss`, the mean over the batch, and the figures of the whole batch.

    Raises:
        TrainingError: the loss is not finite; or there is no memory for a single row, or for a microbatch of a sharded
            model.
    """
    rows = number_of_rows(batch)
    share = dist.rows(rows)
    mine = select_rows(batch, torch.arange(share.start, share.stop)) if dist.size() > 1 else batch
    figures, counted = _share(mine, microbatch_size, loss, count, where, model) if share else ({}, 0)
    if model is not None and is_sharded(model):
        for _ in range(_passes(dist.most_rows(rows), microbatch_size) - _passes(len(share), microbatch_size)):
            _take_part(select_rows(batch, torch.arange(1)), loss)
    if model is not None:
        dist.add_gradients(model.parameters())
    figures, counted = dist.added_figures(figures), sum(dist.gather(counted))
    assert counted == count, f"{where}: the losses are of {counted} tokens or records, and are divided by {count}"
    return figures


def _share(
    batch: Any, microbatch_size: int, loss: BatchLoss, count: int, where: str, model: Any
) -> tuple[dict[str, float], int]:
    """`accumulate` for the rows of this rank; returns also how many tokens or records they have."""
    rows = number_of_rows(batch)
    size = min(microbatch_size or rows, rows, _room.get(model, rows) if model is not None else rows)
    while True:
        try:
            return _accumulate(batch, size, loss, count, where, model)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if size == 1 or model is None or is_sharded(model):  # other ranks would wait for more passes
                remedy = "lower max_tokens or max_new_tokens, set train_layers or lora_rank, or use a smaller model"
                remedy = f"lower microbatch_size to {size // 2}" if size > 1 else remedy
                raise TrainingError(
                    f"{where}: out of memory with {size} row{'s' * (size > 1)} in a microbatch; {remedy}"
                ) from None
        # Outside of the handler, which keeps the tensors of the attempt alive.
        model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = _room[model] = size // 2
        _notes.setdefault(model, []).append(
            f"{where}: out of memory, so microbatches have at most {size} rows from now on; the result is the same"
        )


def update(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    loss: BatchLoss,
    count: Callable[[Any], int],
    settings: Any,
    orders: list[np.ndarray],
    where: str,
    stop: tuple[str, float] | None = None,
) -> dict[str, float]:
    """Optimizer steps on minibatches of a batch.

    Args:
        loss, count, where: as in `accumulate`.
        settings: with `minibatch_size`, `microbatch_size` and `max_grad_norm`.
        orders: for each epoch, the order of the batch's rows.
        stop: a figure and its bound; the update ends before the step at which the figure exceeds it. The first step is
            always taken.

    Returns:
        means of the figures over the optimizer steps (maxima where their name ends in `_max`), and `optimizer_steps`;
        with `stop` also NAME_max, the figure's maximum, that of a step which was not taken included.
    """
    name, bound = stop or ("loss", math.inf)
    history: list[dict[str, float]] = []
    watched: list[float] = []
    for minibatch in (part for order in orders for part in split_rows(batch, order, settings.minibatch_size)):
        figures = accumulate(minibatch, settings.microbatch_size, loss, count(minibatch), where, policy)
        watched.append(figures[name])
        if history and not figures[name] <= bound:  # also where it is not a number
            optimizer.zero_grad(set_to_none=True)
            break
        history.append(figures | {"grad_norm": step(optimizer, policy, settings.max_grad_norm, where)})
    columns = {name: [figures[name] for figures in history] for name in history[0]}
    means = {name: max(v) if name.endswith("_max") else float(np.mean(v)) for name, v in columns.items()}
    return means | {"optimizer_steps": len(history)} | ({f"{name}_max": max(watched)} if stop else {})


def take_notes(model: Any) -> tuple[str, ...]:
    """What `accumulate` has to say about this model since the last call."""
    return tuple(_notes.pop(model, ()))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a CPU or a GPU."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def not_finite(model: Any, *, gradients: bool = False) -> str:
    """The name of the first weight, or gradient, that has NaN or infinity here; empty if none has."""
    for name, parameter in model.named_parameters():
        tensor = parameter.grad if gradients else parameter
        if tensor is not None and not local(tensor).isfinite().all():
            return name
    return ""


def _passes(rows: int, microbatch_size: int) -> int:
    """How many microbatches these rows are."""
    return -(-rows // (microbatch_size or rows)) if rows else 0


def _take_part(row: Any, loss: BatchLoss) -> None:
    """A pass over one row that counts for nothing: ranks that share a model make as many passes as the others."""
    (total, _), _ = loss(row)
    (0.0 * total).backward()


def _accumulate(
    batch: Any, size: int, loss: BatchLoss, count: int, where: str, model: Any
) -> tuple[dict[str, float], int]:
    """`_share` with microbatches of this many rows."""
    rows = number_of_rows(batch)
    parts = split_rows(batch, np.arange(rows), size) if size < rows else [batch]
    figures: defaultdict[str, float] = defaultdict(float)
    counted = 0
    for part in parts:
        (total, part_count), stats = loss(part)
        counted += int(part_count)
        mean = total / count
        if not math.isfinite(mean.item()):
            bad = not_finite(model) if model is not None else ""
            why = f"the weights '{bad}' are not finite" if bad else "lower the learning rate, or look at the data"
            raise TrainingError(f"{where}: the loss is {mean.item()}; {why}")
        mean.backward()
        figures["loss"] += mean.item()
        for name, value in stats.items():
            number = value.item()
            figures[name] = max(figures[name], number) if name.endswith("_max") else figures[name] + number / count
    return dict(figures), counted


def step(optimizer: torch.optim.Optimizer, model: Any, max_grad_norm: float, where: str) -> float:
    """Clip the gradients at p.grad, take a step, and clear them; returns the norm before clipping.

    Raises:
        TrainingError: a gradient is not finite; nothing has been changed.
    """
    norm = model.engine.clip_and_step(optimizer, max_grad_norm)
    bad = "" if math.isfinite(norm) else max(dist.gather(not_finite(model, gradients=True)))
    optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(norm):
        of = f", in that of '{bad}'" if bad else ""
        raise dist.everywhere(TrainingError(f"{where}: the gradient norm is {norm}{of}; lower the learning rate"))
    return norm
