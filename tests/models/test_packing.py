import torch
from tiny import padded_texts

from plaudit.models.packing import pack


def test_a_text_sees_only_itself_and_what_came_before():
    packed = pack(*padded_texts([3, 2]))
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert packed.position_ids[0].tolist() == [0, 1, 2, 0, 1]


def test_a_gap_at_the_end_of_a_row_looks_at_itself_since_a_row_of_the_softmax_must_not_be_empty():
    packed = pack(*padded_texts([126, 120]))
    assert packed.mask.shape == (2, 1, 126, 126)
    assert packed.mask[1, 0, 120:].sum(1).tolist() == [1, 2, 3, 4, 5, 6]
    assert not packed.mask[1, 0, 120:, :120].any()


def test_rows_are_no_longer_than_what_they_hold():
    assert pack(*padded_texts([20, 20, 25])).ids.shape == (1, 65)
    assert pack(*padded_texts([100, 60, 3, 40])).ids.shape == (2, 103)


def test_every_token_comes_back_to_its_place_and_padding_is_zero():
    ids, mask = padded_texts([7, 130, 2, 128], left=(0,))
    packed = pack(ids, mask)
    back = packed.unpack(packed.ids[..., None].float() + 1, *ids.shape).squeeze(-1)
    assert torch.equal(back, (ids + 1).float().masked_fill(~mask, 0.0))
