"""Several texts in one row of a batch, so that no arithmetic is spent on padding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STEP = 16  # row lengths are a multiple of this: matrix libraries prepare, and keep, something for every new shape
_LONGEST = 160  # tokens of a row, where no text is longer: longer rows waste attention between texts
_ATTENDED = 512  # a token costs as much as attending to this number of others (measured for movie-gpt2)


@dataclass(frozen=True)
class Packed:
    """The real tokens of a padded batch, moved into fewer and fuller rows."""

    ids: Int[Tensor, "K C"]  # rows of several texts
    position_ids: Int[Tensor, "K C"]  # they begin at 0 with each text
    mask: Bool[Tensor, "K 1 C C"]  # True where a token may attend: to earlier tokens of its own text
    place: Int[Tensor, "N"]  # index of each real token in the flattened rows, in the order of the padded batch

    def lay_out(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "K C D"]:
        """States of the real tokens in the packed rows; zero in the gaps."""
        out = states.new_zeros(self.ids.numel(), states.shape[1])
        return out.index_copy_(0, self.place, states).view(*self.ids.shape, -1)

    def collect(self, states: Float[Tensor, "K C D"]) -> Float[Tensor, "N D"]:
        """States of the real tokens, in the order of the padded batch."""
        return states.flatten(0, 1)[self.place]


def pack(ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Packed:
    """Lay the texts of a padded batch into rows of the length at which they cost least."""
    lengths = attention_mask.sum(1).tolist()
    shortest = -(-max(lengths) // STEP) * STEP
    sizes = range(shortest, max(shortest, _LONGEST) + 1, STEP)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    layouts = [_first_fit(lengths, order, size) for size in sizes]
    rows, size, places = min(layouts, key=lambda layout: layout[0] * layout[1] * (_ATTENDED + layout[1]))
    starts = [row * size + column for row, column in places]

    device = ids.device
    source = attention_mask.flatten().nonzero().squeeze(1)
    text_of = source // ids.shape[1]
    position = attention_mask.cumsum(1).flatten()[source] - 1
    place = torch.tensor(starts, device=device)[text_of] + position

    def laid_out(values: Tensor, empty: int) -> Tensor:
        return torch.full((rows * size,), empty, dtype=torch.long, device=device).index_copy(0, place, values)

    texts = laid_out(text_of, -1).view(rows, 1, size)  # the gaps at the ends of rows form a text of their own
    causal = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    return Packed(
        ids=laid_out(ids.flatten()[source], 0).view(rows, size),
        position_ids=laid_out(position, 0).view(rows, size),
        mask=((texts == texts.transpose(1, 2)) & causal)[:, None],
        place=place,
    )


def _first_fit(lengths: list[int], order: list[int], size: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Texts, in this order, in rows of `size` tokens, each in the first row with room.

    Returns the number of rows; the length that they need, a multiple of STEP; row and first column of each text.
    """
    places = [(0, 0)] * len(lengths)
    filled: list[int] = []
    for text in order:
        row = next((k for k, used in enumerate(filled) if used + lengths[text] <= size), len(filled))
        if row == len(filled):
            filled.append(0)
        places[text] = (row, filled[row])
        filled[row] += lengths[text]
    return len(filled), -(-max(filled) // STEP) * STEP, places
