"""Counter-based random numbers: every draw is a function of (seed, stage, iteration, purpose, row).

There is no generator state to save. Each row of a batch has its own generator, so a resumed run and a batch that is
split over processes draw the same numbers.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


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
) -> Float64[Tensor, "B R"]:
    """(B, R) uniform numbers in [0, 1); `rows` are indices into the whole batch, R is `width`.

    With `shortest`, each row has its own number of draws, uniform from `shortest` to R, and NaN after them.
    """
    draws = np.stack([generator(seed, stage, iteration, purpose, row).random(width) for row in rows])
    if shortest:
        for row, numbers in zip(rows, draws, strict=True):
            length = generator(seed, stage, iteration, f"{purpose}: length", row).integers(shortest, width + 1)
            numbers[length:] = np.nan
    return torch.from_numpy(draws)


def normals(shape: tuple[int, ...], seed: int, stage: str, purpose: str) -> Tensor:
    """Standard normal numbers of `shape` in float32, to initialise weights."""
    return torch.from_numpy(generator(seed, stage, 0, purpose).standard_normal(shape)).float()
