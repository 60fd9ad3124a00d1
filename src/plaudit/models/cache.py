"""Reading tokens as they come: keys and values of what was read are kept, in memory that is taken once."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.models.trunk import by_blocks, embed, position_ids, run_blocks, top_states


class Reader:
    """A causal model that has read the beginnings of some texts, and goes on where it was.

    Args:
        lm: the model.
        capacity: tokens of a row that will be read at most, padding included.
        depths: numbers of lowest blocks, ascending, whose output is wanted; 0 stands for nothing. Families whose
            blocks we do not know only know 0.
    """

    def __init__(self, lm: Any, capacity: int, depths: tuple[int, ...] = ()) -> None:
        self.lm = lm
        self.depths = depths
        self.mask: Bool[Tensor, "B S"] | None = None
        self._cache: Any = _KeysAndValues(capacity) if by_blocks(lm) else None

    def read(
        self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> tuple[list[Float[Tensor, "B T E"]], Float[Tensor, "B D"]]:
        """Read T more tokens of every row.

        Args:
            mask: False where a row has no token; such a place is never looked at again.

        Returns:
            for each of `depths` what these blocks left (E is 0 where it is 0); the last hidden state of the last token.
        """
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=1)
        positions = position_ids(self.mask)[:, -ids.shape[1] :]
        if not by_blocks(self.lm):
            return self._read_by_itself(ids, positions)
        seen, now = self.mask.shape[1], ids.shape[1]
        order = torch.arange(seen, device=ids.device)
        # Padding looks at itself: a row of attention must not be empty, or it turns into NaN.
        may_look = (order <= order[-now:, None]) & (self.mask[:, None] | (order == order[-now:, None]))
        self._cache.length = seen
        given = {"mask": may_look[:, None], "positions": positions, "cache": self._cache}
        hidden, start, left = embed(self.lm, ids, positions), 0, []
        for depth in self.depths:
            hidden, start = run_blocks(self.lm, hidden, (start, depth), **given), depth
            left.append(hidden if depth else hidden[..., :0])
        last = torch.arange(now - 1, ids.numel(), now, device=ids.device)
        return left, top_states(self.lm, hidden, start, last, **given)

    def keep(self, rows: Int[Tensor, "n"]) -> None:
        """Go on with these rows only."""
        assert self.mask is not None
        self.mask = self.mask[rows]
        self._cache.batch_select_indices(rows)

    def _read_by_itself(self, ids: Tensor, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        assert self.mask is not None
        output = self.lm.base_model(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        return [output.last_hidden_state[..., :0] for _ in self.depths], output.last_hidden_state[:, -1]


class _KeysAndValues:
    """What the attention of transformers' blocks asks of a cache.

    Attributes:
        length: tokens of a row, those that are being read included.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *rest: Any) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, E) keys and values of a layer; all of that layer so far."""
        if layer not in self._kept:
            batch, heads, _, width = keys.shape
            # Rotary embeddings leave keys in float32 where values are halved: the cache is of the smaller kind.
            empty = values.new_zeros(2, batch, heads, self.capacity, width)
            self._kept[layer] = (empty[0], empty[1])
        new = slice(self.length - keys.shape[2], self.length)
        for kept, given in zip(self._kept[layer], (keys, values), strict=True):
            kept[:, :, new] = given
        all_keys, all_values = self._kept[layer]
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""
        for layer, (keys, values) in self._kept.items():  # one after the other: never all of them twice
            self._kept[layer] = (keys[rows], values[rows])
