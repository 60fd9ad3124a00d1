"""Counter-based randomness: every draw is a function of (seed, stage, iteration, purpose, row).

There is no generator state to save. Stopping, resuming, or splitting a batch draws the same numbers,
because a row of a global batch draws its own noise, whoever computes it.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


def generator(seed: int, stage: str, iteration: int, purpose: str, row: int = 0) -> np.random.Generator:
    """A fresh Philox generator for this draw; the same arguments always give the same numbers."""
    name = f"{seed}/{stage}/{iteration}/{purpose}/{row}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def permutation(n: int, seed: int, stage: str, epoch: int) -> np.ndarray:
    """(n,) the order in which `epoch` visits n items."""
    return generator(seed, stage, epoch, "order").permutation(n)


def uniforms(rows: range, width: int, seed: int, stage: str, iteration: int, purpose: str) -> Float64[Tensor, "B R"]:
    """(B, R) numbers in [0, 1), row i from row i's own generator."""
    draws = [generator(seed, stage, iteration, purpose, row).random(width) for row in rows]
    return torch.from_numpy(np.stack(draws))


def normals(shape: tuple[int, ...], seed: int, stage: str, purpose: str) -> Tensor:
    """Standard normal numbers of `shape` in float32, for initialising a head."""
    return torch.from_numpy(generator(seed, stage, 0, purpose).standard_normal(shape)).float()
