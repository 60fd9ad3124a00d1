"""The activation cache: outputs of frozen layers, computed once a text and reused by every later pass over it."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import RunError

MAPPED_FROM = 512 * 2**20  # bytes: a larger cache is a mapped file, which the system reads and drops as it likes
_TEXTS_TOGETHER = 64  # texts of a data set that are computed in one batch


def key(ids: Sequence[int] | np.ndarray) -> bytes:
    """What the cache knows a text by: its token ids, whatever its padding."""
    return np.asarray(ids, dtype=np.int32).tobytes()


class ActivationCache:
    """Activations after the first `depth` layers of a model, by text.

    Args:
        width: D, numbers of a token.
        folder: where to put a cache that is too large for memory; the file is removed at once and lives while in use.
    """

    def __init__(self, width: int, folder: Path) -> None:
        self._width, self._folder = width, folder
        self._rollout: dict[bytes, Tensor] = {}
        self._dataset: dict[bytes, Tensor] = {}  # parts of one large tensor

    def keep(self, texts: Sequence[bytes], states: Sequence[Tensor]) -> None:
        """Keep activations (L, D), one tensor a text, in place of those kept before; a data set's remain."""
        self._rollout = dict(zip(texts, states, strict=True))

    def add(self, texts: Sequence[bytes], states: Sequence[Tensor]) -> None:
        """Keep activations (L, D) of further texts."""
        for text, activations in zip(texts, states, strict=True):
            if text in self._dataset:
                self._dataset[text].copy_(activations)
            else:
                self._rollout[text] = activations

    def expect(self, texts: Sequence[Sequence[int]]) -> list[tuple[bytes, ...]]:
        """Make room for a data set that is read in every epoch; returns the batches in which to compute and `add` it.

        A text is computed together with its neighbours in length. Its activations are then the same to the last bit in
        whatever order the texts come later, and so after a resume.
        """
        names = sorted({key(text) for text in texts}, key=lambda name: (len(name), name))
        if self._dataset or not names:
            return []
        lengths = [len(name) // np.dtype(np.int32).itemsize for name in names]
        states = _allocate((sum(lengths), self._width), self._folder)
        self._dataset = dict(zip(names, states.split(lengths), strict=True))
        return [tuple(names[start : start + _TEXTS_TOGETHER]) for start in range(0, len(names), _TEXTS_TOGETHER)]

    def missing(self, texts: Sequence[bytes]) -> tuple[bytes, ...]:
        """Texts to compute, together, and to `add` before `get` can answer."""
        return tuple(dict.fromkeys(t for t in texts if t not in self._dataset and t not in self._rollout))

    def get(self, texts: Sequence[bytes], device: torch.device) -> Float[Tensor, "N D"]:
        """Activations of the tokens of these texts, one text after the other."""
        found = [self._dataset[text] if text in self._dataset else self._rollout[text] for text in texts]
        return torch.cat([states.to(device) for states in found])


def _allocate(size: tuple[int, int], folder: Path) -> Float[Tensor, "N D"]:
    """Uninitialised float32 numbers: in memory, or in a mapped file where they are many.

    Raises:
        RunError: the disk has no room.
    """
    number = size[0] * size[1]
    if 4 * number < MAPPED_FROM:
        return torch.empty(size)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".partial", "activations.", folder)
    try:
        if hasattr(os, "posix_fallocate"):  # a write to a mapped file kills the process where the disk is full
            os.posix_fallocate(handle, 0, 4 * number)
        else:
            os.truncate(handle, 4 * number)
        return torch.from_file(name, shared=True, size=number).view(size)
    except OSError as error:
        raise RunError(f"{folder}: no room for {4 * number / 2**30:.1f} GiB of activations: {error.strerror}") from None
    finally:
        os.close(handle)
        with suppress(OSError):  # not every system removes a file that is in use
            Path(name).unlink()
