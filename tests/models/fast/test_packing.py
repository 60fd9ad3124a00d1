import torch
from tiny import padded_texts

from plaudit.models.packing import pack


def test_a_text_sees_only_itself_and_what_came_before():
    packed = pack(*padded_texts([3, 2]))
    assert packed.mask[0, 0, :6, :6].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],  # the gap at the end of the row looks at itself: a row of the softmax must not be empty
    ]
    assert packed.position_ids[0, :6].tolist() == [0, 1, 2, 0, 1, 0]


def test_rows_are_hardly_longer_than_what_they_hold():
    assert pack(*padded_texts([3, 2])).ids.shape == (1, 16)
    assert pack(*padded_texts([20, 20, 25])).ids.shape == (1, 80)
    assert pack(*padded_texts([100, 60, 3, 40])).ids.shape == (2, 112)


def test_rows_are_as_long_as_suits_the_texts_and_no_longer_than_pays():
    assert pack(*padded_texts([50] * 3)).ids.shape == (1, 160)
    assert pack(*padded_texts([40] * 4)).ids.shape == (2, 80)  # as many tokens as one row of 160, which look less far
    assert pack(*padded_texts([15] * 32)).ids.shape == (32, 16)
    assert pack(*padded_texts([200, 90, 90])).ids.shape == (2, 208)


def test_every_token_comes_back_to_its_place_and_padding_is_zero():
    ids, mask = padded_texts([7, 130, 2, 128], left=(0,))
    packed = pack(ids, mask)
    back = packed.unpack(packed.ids[..., None].float() + 1, *ids.shape).squeeze(-1)
    assert torch.equal(back, (ids + 1).float().masked_fill(~mask, 0.0))
