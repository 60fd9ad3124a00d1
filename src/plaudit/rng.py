"""Counter-based random numbers: every draw is a function of (seed, stage, iteration, purpose, row).

There is no generator state to save. Each row of a batch has its own generator, so a resumed run and a batch that is
split over processes draw the same numbers. torch is imported by the functions that make tensors, because the labelling
page draws numbers too, and does without it.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def generator(seed: int, stage: str, iteration: int, purpose: str, row: int = 0) -> np.random.Generator:
    """A new Philox generator, keyed by the arguments."""
    name = f"{seed}/{stage}/{iteration}/{purpose}/{row}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def permutation(n: int, seed: int, stage: str, epoch: int) -> np.ndarray:
    """(n,) order in which `epoch` visits n records."""
    return generator(seed, stage, epoch, "order").permutation(n)


def uniforms(
    rows: range, width: int, seed: int, stage: str, iteration: int, purpose: str, shortest: int = 0
) -> "torch.Tensor":
    """(B, R) uniform float64 numbers in [0, 1); `rows` are indices into the whole batch, R is `width`.

    With `shortest`, each row has its own number of draws, uniform from `shortest` to R, and NaN after them.
    """
    import torch

    draws = np.stack([generator(seed, stage, iteration, purpose, row).random(width) for row in rows])
    if shortest:
        for row, numbers in zip(rows, draws, strict=True):
            length = generator(seed, stage, iteration, f"{purpose}: length", row).integers(shortest, width + 1)
            numbers[length:] = np.nan
    return torch.from_numpy(draws)


def normals(shape: tuple[int, ...], seed: int, stage: str, purpose: str) -> "torch.Tensor":
    """Standard normal numbers of `shape` in float32, to initialise weights."""
    import torch

    return torch.from_numpy(generator(seed, stage, 0, purpose).standard_normal(shape)).float()
