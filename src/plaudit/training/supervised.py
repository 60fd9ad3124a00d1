"""The loop of every algorithm that learns from records: epochs of batches, one optimizer step each.

The records of a step follow from (seed, stage, epoch), so that there is no data loader state to save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from plaudit import rng
from plaudit.batches import to_device
from plaudit.models.ensemble import member_folder
from plaudit.rewards import Source
from plaudit.training import dist, stopping
from plaudit.training.checkpoint import Checkpoints, due
from plaudit.training.metrics import MetricsLog, StepReport
from plaudit.training.optimizer import BatchLoss, accumulate, set_lr, step, take_notes, warmup_then_linear
from plaudit.training.run import Run
from plaudit.training.trackers import tracking

_BATCHES_SORTED_TOGETHER = 16


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
    member: int = 1,
    members: int = 1,
    sources: tuple[Source, ...] = (),
) -> Iterator[StepReport]:
    """Train `model`, from its newest checkpoint if there is one; yield one report per step, if there are examples.

    Args:
        lengths: (N,) tokens of each example; examples of similar length share a batch.
        collate: makes a batch from a list of examples.
        loss, count: as in `optimizer.accumulate`.
        member: which one of `members` models of the stage this is, counted from 1. Each has its own order of the
            examples, log and checkpoints; the reports count the steps of all of them.
        sources: parts of the reward that a policy is trained for; () for the run's reward model.
    """
    if not examples:
        return
    settings, name = getattr(run.config, stage), member_name(stage, member)
    total = steps_per_epoch(len(examples), settings.batch_size) * settings.epochs
    checkpoints, log = run.checkpoints(stage, sources), run.log(stage)
    if member > 1:
        log = MetricsLog(member_folder(run.folder(stage), member))
        checkpoints = Checkpoints(member_folder(checkpoints.folder, member), checkpoints.fingerprint, log)
    model.eval()  # no dropout: its random numbers would not depend on the seed, and two epochs do not need it
    first, before = checkpoints.restore(model, optimizer)["step"], (member - 1) * total

    dist.share_weights(model.parameters())
    with stopping.training_loop(stage), tracking(run, stage, before + first) as track:
        for number, rows in visits(lengths, settings.batch_size, settings.epochs, run.config.seed, name, first):
            began = time.perf_counter()
            lr = settings.lr * warmup_then_linear(number, total, settings.warmup)
            set_lr(optimizer, lr)
            where = f"{name} step {number + 1}"
            batch = to_device(collate([examples[row] for row in rows]), run.device)
            metrics = accumulate(batch, settings.microbatch_size, loss, count(batch), where, model)
            metrics |= {"lr": lr, "grad_norm": step(optimizer, model, settings.max_grad_norm, where)}

            seconds = time.perf_counter() - began
            timing = {"seconds": seconds, "tokens_per_second": float(lengths[rows].sum() / seconds)}
            notes = (*checkpoints.take_notes(), *take_notes(model))
            report = StepReport(stage, number + 1, total, metrics, timing, notes)
            log.append(report)
            shown = track(replace(report, step=before + report.step, total=members * total))
            asked = dist.any_rank(stopping.requested())
            if due(number + 1, total, settings.save_every, run.saved_after) or asked:
                checkpoints.save(number + 1, model, optimizer)
            yield shown
            if asked and number + 1 < total:
                stopping.stop()


def member_name(stage: str, member: int) -> str:
    """The name by which random numbers are drawn for one of several models of a stage."""
    return stage if member == 1 else f"{stage} {member}"


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Number of steps in one pass over n records; the last batch may be smaller."""
    return -(-n // batch_size)


def visits(
    lengths: np.ndarray, batch_size: int, epochs: int, seed: int, stage: str, first: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(step, indices of its batch) for every step from `first` to the end of the last epoch."""
    per_epoch = steps_per_epoch(len(lengths), batch_size)
    for epoch in range(first // per_epoch, epochs):
        batches = list(enumerate(epoch_batches(lengths, batch_size, seed, stage, epoch), epoch * per_epoch))
        yield from batches[max(0, first - epoch * per_epoch) :]


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, stage: str, epoch: int) -> list[np.ndarray]:
    """Indices of every batch of an epoch: shuffled, and grouped by length to reduce padding.

    Records are shuffled, sorted by length within runs of 16 batches, cut into batches, and the batches are
    shuffled. Every record appears exactly once.
    """
    n = len(lengths)
    shuffled = rng.permutation(n, seed, stage, epoch)
    run = batch_size * _BATCHES_SORTED_TOGETHER
    runs = [shuffled[i : i + run] for i in range(0, n, run)]
    by_length = np.concatenate([r[np.argsort(lengths[r], kind="stable")] for r in runs])
    batches = [by_length[i : i + batch_size] for i in range(0, n, batch_size)]
    order = rng.generator(seed, stage, epoch, "batch order").permutation(len(batches))
    return [batches[i] for i in order]
