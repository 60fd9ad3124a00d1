"""Supervised learning, as SFT and the reward model share it: epochs of batches, one optimizer step each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from plaudit.training import optimizer as optim
from plaudit.training.metrics import StepReport
from plaudit.training.order import steps_per_epoch, visits
from plaudit.training.run import Run

BatchLoss = Callable[[np.ndarray], tuple[Tensor, dict[str, float]]]


def fit(
    stage: str,
    model: nn.Module,
    lengths: np.ndarray,
    batch_loss: BatchLoss,
    settings: Any,
    run: Run,
) -> Iterator[StepReport]:
    """Train `model`, going on from its newest checkpoint if there is one; one report a step.

    Args:
        lengths: (N,) tokens of every record.
        batch_loss: from the indices of a batch, the loss of those records and figures to log beside it.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    total = steps_per_epoch(len(lengths), settings.batch_size) * settings.epochs
    optimizer = optim.adamw(model, settings.lr, settings.weight_decay)
    checkpoints, log = run.checkpoints(stage), run.log(stage)
    model.eval()  # no dropout: it draws from a generator that is nobody's, and one or two epochs do not need it
    first = checkpoints.restore(model, optimizer)["step"]
    log.cut_back(first)

    for step, rows in visits(lengths, settings.batch_size, settings.epochs, run.config.seed, stage, first):
        began = time.perf_counter()
        lr = settings.lr * optim.warmup_then_linear(step, total, settings.warmup)
        optim.set_lr(optimizer, lr)
        loss, figures = batch_loss(rows)
        norm = optim.step(loss, model, optimizer, settings.max_grad_norm, f"{stage} step {step + 1}")

        seconds = time.perf_counter() - began
        metrics = {"loss": loss.item(), **figures, "lr": lr, "grad_norm": norm}
        timing = {"seconds": seconds, "tokens_per_second": float(lengths[rows].sum() / seconds)}
        report = StepReport(stage, step + 1, total, metrics, timing)
        log.append(report)
        if (step + 1) % settings.save_every == 0 or step + 1 == total:
            checkpoints.save(step + 1, model, optimizer)
        yield report
