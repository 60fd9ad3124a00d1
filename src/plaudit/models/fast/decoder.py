"""Reading tokens as they are sampled, with a key-value cache in memory that is allocated once."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.models.fast.families import embed, run_layers, top_states
from plaudit.models.plain import position_ids


class Decoder:
    """A causal model that has read the beginnings of some texts and can read on; the cache of its layers.

    Args:
        capacity: most tokens of a row, padding included.
        depths: numbers of lowest layers, ascending, whose outputs `append` returns.
    """

    def __init__(self, lm: Any, capacity: int, depths: tuple[int, ...] = ()) -> None:
        self._lm, self._capacity, self._depths = lm, capacity, depths
        self._mask: Bool[Tensor, "B S"] | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values by layer

    def append(
        self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> tuple[list[Float[Tensor, "B T D"]], Float[Tensor, "B D"]]:
        """Read T more tokens of every row; `mask` is False where it has none.

        Returns the outputs of the lowest layers, one for each of `depths`, and the last hidden state of the last token.
        """
        self._mask = mask if self._mask is None else torch.cat([self._mask, mask], dim=1)
        positions = position_ids(self._mask)[:, -ids.shape[1] :]
        seen, now = self._mask.shape[1], ids.shape[1]
        order = torch.arange(seen, device=ids.device)
        # Padding attends to itself: attention over nothing is NaN.
        attends = (order <= order[-now:, None]) & (self._mask[:, None] | (order == order[-now:, None]))
        context: dict[str, Any] = {"mask": attends[:, None], "positions": positions, "cache": self}
        hidden, start, outputs = embed(self._lm, ids, positions), 0, []
        for depth in self._depths:
            hidden, start = run_layers(self._lm, hidden, (start, depth), **context), depth
            outputs.append(hidden)
        last = torch.arange(now - 1, ids.numel(), now, device=ids.device)
        return outputs, top_states(self._lm, hidden, start, last, **context)

    def update(self, keys: Tensor, values: Tensor, layer: int, *rest: Any) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, E) keys and values of a layer, and return all of that layer so far.

        Attention layers call it as they call a cache of transformers.
        """
        assert self._mask is not None
        seen, (batch, heads, now, width) = self._mask.shape[1], keys.shape
        if layer not in self._kept:
            # Rotary embeddings leave keys in float32 where values are bfloat16: the cache has the values' format.
            empty = values.new_zeros(2, batch, heads, self._capacity, width)
            self._kept[layer] = (empty[0], empty[1])
        all_keys, all_values = self._kept[layer]
        all_keys[:, :, seen - now : seen] = keys
        all_values[:, :, seen - now : seen] = values
        return all_keys[:, :, :seen], all_values[:, :, :seen]

    def select(self, rows: Int[Tensor, "n"]) -> None:
        """Go on with these rows only."""
        assert self._mask is not None
        self._mask = self._mask[rows]
        for layer, (keys, values) in self._kept.items():  # one after the other, so that all never exist twice
            self._kept[layer] = (keys[rows], values[rows])
