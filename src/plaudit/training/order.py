"""The records of each step, computed from (seed, stage, epoch), so that there is no data loader state to save."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from plaudit import rng

_BATCHES_SORTED_TOGETHER = 16


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
