"""What the frozen blocks make of a data set: computed once a text, reused in every epoch."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plaudit.batches import Below
from plaudit.errors import RunError
from plaudit.models.trunk import states_below

_TEXTS_AT_ONCE = 64
MAPPED_FROM = 512 * 2**20  # bytes: what is larger lies in a file that the system reads and drops as it likes


class FrozenStates:
    """States that the lowest blocks leave of every text, for batches padded on the right.

    A text is computed together with its neighbours in length, whoever asks for it first: its states are then the
    same to the last bit whatever the order of visits, and so after a resume.

    Args:
        lm: the model.
        depth: its frozen blocks; 0: there is nothing to keep.
        texts: the ids of every text.
        autocast: makes the context of a forward pass.
        file: where to lay what is too large for memory; it is removed at once and lives as long as this object.
    """

    def __init__(
        self,
        lm: Any,
        depth: int,
        texts: Sequence[Sequence[int]],
        autocast: Callable[[], AbstractContextManager[Any]],
        file: Path,
    ) -> None:
        self._lm, self._depth, self._texts, self._autocast = lm, depth, texts, autocast
        if not depth:
            return
        self._order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        self._place = {text: place for place, text in enumerate(self._order)}
        self._start = [0]
        for text in texts:
            self._start.append(self._start[-1] + len(text))
        self._known: set[int] = set()
        size = (self._start[-1], lm.config.hidden_size)
        if 4 * size[0] * size[1] < MAPPED_FROM:
            self._states = torch.empty(size)
        else:
            _reserve(file, 4 * size[0] * size[1])
            self._states = torch.from_file(str(file), shared=True, size=size[0] * size[1]).view(size)
            with suppress(OSError):  # not every system lets go of a name in use
                file.unlink()

    def of(self, rows: Sequence[int], ids: Tensor) -> Below:
        """What the frozen blocks left of these texts, (B, T) `ids` as they are padded in a batch."""
        if not self._depth:
            return Below.nothing(ids)
        for group in {self._place[row] // _TEXTS_AT_ONCE for row in rows} - self._known:
            self._compute(group)
        states = self._states.new_zeros(*ids.shape, self._states.shape[1])
        for i, row in enumerate(rows):
            states[i, : len(self._texts[row])] = self._states[self._start[row] : self._start[row + 1]]
        return Below(states, self._depth)

    def _compute(self, group: int) -> None:
        rows = self._order[group * _TEXTS_AT_ONCE : (group + 1) * _TEXTS_AT_ONCE]
        lengths = torch.tensor([len(self._texts[row]) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([token for row in rows for token in self._texts[row]])
        device = self._lm.get_input_embeddings().weight.device
        with self._autocast():
            below = states_below(self._lm, self._depth, ids.to(device), mask.to(device))
        for row, states, length in zip(rows, below.states.float().cpu(), lengths.tolist(), strict=True):
            self._states[self._start[row] : self._start[row + 1]] = states[:length]
        self._known.add(group)


def _reserve(file: Path, size: int) -> None:
    """Make `file` of `size` bytes that are really there: writing to a map of a full disk kills a process unheard.

    Raises:
        RunError: there is no room.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
            else:
                opened.truncate(size)
        except OSError as error:
            raise RunError(f"{file}: no room for {size / 2**30:.1f} GiB of states: {error.strerror}") from None
