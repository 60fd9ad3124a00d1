"""The supervised loop that SFT and the reward model share: epochs of batches, one optimizer step each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from plaudit.batches import to_device
from plaudit.training import stopping
from plaudit.training.metrics import StepReport
from plaudit.training.optimizer import BatchLoss, accumulate, set_lr, step, warmup_then_linear
from plaudit.training.order import steps_per_epoch, visits
from plaudit.training.run import Run


def train_supervised(
    run: Run,
    stage: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Any],
    lengths: np.ndarray,
    collate: Callable[[Sequence[Any]], Any],
    loss: BatchLoss,
    count: Callable[[Any], int],
) -> Iterator[StepReport]:
    """Train `model`, from its newest checkpoint if there is one; yield one report per step.

    Args:
        model: the model to train.
        examples: the training data.
        lengths: (N,) tokens of each example; examples of similar length share a batch.
        collate: makes a batch from a list of examples.
        loss, count: as in `optimizer.accumulate`.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    settings = getattr(run.config, stage)
    total = steps_per_epoch(len(examples), settings.batch_size) * settings.epochs
    checkpoints, log = run.checkpoints(stage), run.log(stage)
    model.eval()  # no dropout: its random numbers would not depend on the seed, and two epochs do not need it
    first = checkpoints.restore(model, optimizer)["step"]
    with stopping.training_loop(stage):
        for number, rows in visits(lengths, settings.batch_size, settings.epochs, run.config.seed, stage, first):
            began = time.perf_counter()
            lr = settings.lr * warmup_then_linear(number, total, settings.warmup)
            set_lr(optimizer, lr)
            where = f"{stage} step {number + 1}"
            batch = to_device(collate([examples[row] for row in rows]), run.device)
            figures = accumulate(batch, settings.microbatch_size, loss, count(batch), where)
            norm = step(optimizer, model, settings.max_grad_norm, where)

            seconds = time.perf_counter() - began
            metrics = figures | {"lr": lr, "grad_norm": norm}
            timing = {"seconds": seconds, "tokens_per_second": float(lengths[rows].sum() / seconds)}
            report = StepReport(stage, number + 1, total, metrics, timing, warnings=checkpoints.notes)
            checkpoints.notes = ()
            log.append(report)
            asked = stopping.requested()
            if (number + 1) % settings.save_every == 0 or number + 1 == total or asked:
                checkpoints.save(number + 1, model, optimizer)
            yield report
            if asked and number + 1 < total:
                stopping.stop()
