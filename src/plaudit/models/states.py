"""What the frozen blocks make of a data set: computed once a text, reused in every epoch."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plaudit.batches import Below
from plaudit.errors import RunError
from plaudit.models.trunk import states_below

_TEXTS_AT_ONCE = 64
MAPPED_FROM = 512 * 2**20  # bytes: what is larger lies in a file that the system reads and drops as it likes


@dataclass(frozen=True)
class Kept:
    """What a stage passes on to the next of the same run.

    Attributes:
        depth: the lowest blocks that were run.
        texts: the ids of every text.
        states: (N, D) of all tokens of these, text after text.
        known: the groups of texts that have been computed.
    """

    depth: int
    texts: Sequence[Sequence[int]]
    states: Tensor
    known: set[int]


class FrozenStates:
    """States that the lowest blocks leave of every text, for batches padded on the right.

    A text is computed together with its neighbours in length, whoever asks for it first: its states are then the
    same to the last bit whatever the order of visits, and so after a resume.

    Args:
        lm: the model.
        depth: its frozen blocks; 0: there is nothing to keep.
        texts: the ids of every text.
        autocast: makes the context of a forward pass.
        folder: where to lay what is too large for memory: a file that is removed at once and lives while it is used.
        pass_on: of the frozen blocks those whose output is kept for another stage, too (see `passed_on`); 0 for none.
        earlier: what another stage has passed on; used where it is of the very same texts and as many blocks. Not
            together with `pass_on`.
    """

    def __init__(
        self,
        lm: Any,
        depth: int,
        texts: Sequence[Sequence[int]],
        autocast: Callable[[], AbstractContextManager[Any]],
        folder: Path,
        pass_on: int = 0,
        earlier: Kept | None = None,
    ) -> None:
        self._lm, self._depth, self._texts, self._autocast = lm, depth, texts, autocast
        self.passed_on: Kept | None = None
        if not depth:
            return
        self._order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        self._place = {text: place for place, text in enumerate(self._order)}
        self._start = [0]
        for text in texts:
            self._start.append(self._start[-1] + len(text))
        size = (self._start[-1], lm.config.hidden_size)
        self._known: set[int] = set()
        if earlier is not None and (earlier.depth, earlier.texts) == (depth, texts):
            self._states, self._known = earlier.states, earlier.known
        else:
            self._states = _room(size, folder)
        self._kept = {depth: self._states}
        if 0 < pass_on < depth:
            self._kept = {pass_on: _room(size, folder), depth: self._states}
        self.passed_on = Kept(pass_on, texts, self._kept[pass_on], self._known) if 0 < pass_on <= depth else None

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
        below = None
        for depth, kept in self._kept.items():
            with self._autocast():
                below = states_below(self._lm, depth, ids.to(device), mask.to(device), below)
            for row, states, length in zip(rows, below.states.float().cpu(), lengths.tolist(), strict=True):
                kept[self._start[row] : self._start[row + 1]] = states[:length]
        self._known.add(group)


def _room(size: tuple[int, int], folder: Path) -> Tensor:
    """Float32 numbers, not set to anything: in memory, or in a file of their own when they are many."""
    number = size[0] * size[1]
    if 4 * number < MAPPED_FROM:
        return torch.empty(size)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".partial", "states.", folder)
    os.close(handle)
    file = Path(name)
    _reserve(file, 4 * number)
    room = torch.from_file(str(file), shared=True, size=number).view(size)
    with suppress(OSError):  # not every system lets go of a name in use
        file.unlink()
    return room


def _reserve(file: Path, size: int) -> None:
    """Make `file` of `size` bytes that are really there: writing to a map of a full disk kills a process unheard.

    Raises:
        RunError: there is no room.
    """
    with file.open("wb") as opened:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
            else:
                opened.truncate(size)
        except OSError as error:
            raise RunError(f"{file}: no room for {size / 2**30:.1f} GiB of states: {error.strerror}") from None
