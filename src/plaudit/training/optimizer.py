"""The optimizer, its learning-rate schedule, and the one place where a step is taken or refused."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.batches import number_of_rows, split_rows
from plaudit.errors import TrainingError
from plaudit.maths.losses import Loss

# From a batch to (sum, count), and figures: sums over the same count, or maxima where the name ends in "_max".
BatchLoss = Callable[[Any], tuple[Loss, dict[str, Tensor]]]


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


def accumulate(batch: Any, microbatch_size: int, loss: BatchLoss, count: int, where: str) -> dict[str, float]:
    """Add the gradients of a batch's mean loss to p.grad, a microbatch at a time.

    Args:
        microbatch_size: rows of a microbatch; 0 for the whole batch at once. The result is the same.
        count: what the sums are divided by: tokens or records of the whole batch.
        where: stage and step, for error messages.

    Returns:
        `loss`, the mean over the batch, and the figures of the whole batch.
    """
    rows = number_of_rows(batch)
    parts = split_rows(batch, np.arange(rows), microbatch_size) if 0 < microbatch_size < rows else [batch]
    figures: defaultdict[str, float] = defaultdict(float)
    counted = 0
    for part in parts:
        (total, part_count), stats = loss(part)
        counted += int(part_count)
        mean = total / count
        if not math.isfinite(mean.item()):
            raise TrainingError(f"{where}: the loss is {mean.item()}; lower the learning rate, or look at the data")
        mean.backward()
        figures["loss"] += mean.item()
        for name, value in stats.items():
            number = value.item()
            figures[name] = max(figures[name], number) if name.endswith("_max") else figures[name] + number / count
    assert counted == count, f"{where}: the losses are of {counted} tokens or records, and are divided by {count}"
    return dict(figures)


def step(optimizer: torch.optim.Optimizer, model: Any, max_grad_norm: float, where: str) -> float:
    """Clip the gradients at p.grad, take a step, and clear them; returns the norm before clipping.

    Raises:
        TrainingError: a gradient is not finite; nothing has been changed.
    """
    norm = model.engine.clip_and_step(optimizer, max_grad_norm)
    optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(norm):
        raise TrainingError(f"{where}: the gradient norm is {norm}; lower the learning rate")
    return norm
