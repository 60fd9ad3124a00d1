import pytest
import torch
from tiny import FAMILIES, make_family, padded_texts

from plaudit.models.fast.decoder import Decoder
from plaudit.models.plain import position_ids

DEPTHS, WIDTH = (1, 2), 12
PIECES = {"at once": [12], "token by token": [1] * 12, "in pieces": [5, 1, 1, 3, 2]}
every_family = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def full_forward(lm, ids, mask):
    """(outputs after each of DEPTHS layers, last states) of transformers' own forward over everything at once."""
    output = lm.base_model(
        input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), output_hidden_states=True
    )
    return [output.hidden_states[depth] for depth in DEPTHS], output.last_hidden_state


def assert_near(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@every_family
@torch.no_grad()
def test_reading_in_pieces_gives_what_the_full_forward_gives(family, pieces):
    lm = make_family(family)
    ids, mask = padded_texts([WIDTH, 3, 7], left=(1, 2))
    lower, last = full_forward(lm, ids, mask)
    decoder, end = Decoder(lm, WIDTH, DEPTHS), 0
    for n in pieces:
        now = slice(end, end + n)
        end += n
        outputs, found = decoder.append(ids[:, now], mask[:, now])
        real = mask[:, now]
        for output, expected in zip(outputs, lower, strict=True):
            assert_near(output[real], expected[:, now][real])
        assert_near(found[real[:, -1]], last[:, end - 1][real[:, -1]])


@every_family
@torch.no_grad()
def test_selected_rows_keep_what_they_have_read(family):
    lm = make_family(family)
    ids, mask = padded_texts([WIDTH, 3, 7, 9], left=(1, 2, 3))
    lower, last = full_forward(lm, ids, mask)
    decoder, rows, end = Decoder(lm, WIDTH, DEPTHS), torch.arange(4), 9
    decoder.append(ids[:, :end], mask[:, :end])
    for stay in ([3, 1, 0], [2, 1], [1]):
        decoder.select(torch.tensor(stay))
        rows = rows[stay]
        outputs, found = decoder.append(ids[rows, end : end + 1], mask[rows, end : end + 1])
        for output, expected in zip(outputs, lower, strict=True):
            assert_near(output[:, 0], expected[rows, end])
        assert_near(found, last[rows, end])
        end += 1
    assert (rows.tolist(), end) == ([1], WIDTH)


@every_family
@torch.no_grad()
def test_no_token_attends_to_a_place_without_a_token(family):
    """A gap in the middle of a row: the tokens after it continue those before it."""
    lm = make_family(family)
    ids, mask = padded_texts([WIDTH, WIDTH])
    mask[0, 5:8] = False
    short = ids[:1, mask[0]]
    _, last = full_forward(lm, short, torch.ones_like(short, dtype=torch.bool))
    _, unbroken = full_forward(lm, ids[1:], mask[1:])
    decoder = Decoder(lm, WIDTH)
    for t in range(WIDTH):
        outputs, found = decoder.append(ids[:, t : t + 1], mask[:, t : t + 1])
    assert outputs == []
    assert_near(found[0], last[0, -1])
    assert_near(found[1], unbroken[0, -1])
