import torch
from tiny import padded_texts

from plaudit.models.fast.packing import pack


def test_a_token_attends_to_earlier_tokens_of_its_own_text():
    packed = pack(*padded_texts([3, 2]))
    assert packed.mask[0, 0, :6, :6].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],  # the gap at the end of the row attends to itself: a softmax over nothing is NaN
    ]
    assert packed.position_ids[0, :6].tolist() == [0, 1, 2, 0, 1, 0]


def test_rows_are_hardly_longer_than_their_texts():
    assert pack(*padded_texts([3, 2])).ids.shape == (1, 16)
    assert pack(*padded_texts([20, 20, 25])).ids.shape == (1, 80)
    assert pack(*padded_texts([100, 60, 3, 40])).ids.shape == (2, 112)


def test_rows_have_the_length_that_costs_least():
    assert pack(*padded_texts([50] * 3)).ids.shape == (1, 160)
    assert pack(*padded_texts([40] * 4)).ids.shape == (2, 80)  # as many tokens as one row of 160, with less attention
    assert pack(*padded_texts([15] * 32)).ids.shape == (32, 16)
    assert pack(*padded_texts([200, 90, 90])).ids.shape == (2, 208)


def test_every_token_is_found_again_and_the_gaps_are_zero():
    ids, mask = padded_texts([7, 130, 2, 128], left=(0,))
    packed = pack(ids, mask)
    states = ids[mask][:, None].float() + 1
    rows = packed.lay_out(states)
    assert torch.equal(packed.collect(rows), states)
    assert torch.equal(packed.ids.flatten()[packed.place], ids[mask])
    assert rows.count_nonzero() == len(states)
