import pytest
import torch
from tiny import FAMILIES, make_family, padded_texts

from plaudit.models.cache import Reader
from plaudit.models.trunk import position_ids

DEPTH, WIDTH = 2, 12
PIECES = {"at once": [12], "token by token": [1] * 12, "in pieces": [5, 1, 1, 3, 2]}
every_family = pytest.mark.parametrize("family", [*sorted(FAMILIES), "unknown"])


@pytest.fixture
def lm(family):
    """Of each family that is run by blocks; and one whose own forward and cache have to do."""
    lm = make_family("gpt2" if family == "unknown" else family)
    if family == "unknown":
        lm.config.model_type = family
    return lm


def _plain(lm, ids, mask):
    """(states after DEPTH blocks, last states) of transformers' own forward over everything at once."""
    with torch.no_grad():
        output = lm.base_model(
            input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), output_hidden_states=True
        )
    return output.hidden_states[DEPTH], output.last_hidden_state


def _near(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@every_family
def test_what_is_read_piece_by_piece_is_what_the_full_forward_sees(lm, family, pieces):
    depth = 0 if family == "unknown" else DEPTH
    ids, mask = padded_texts([WIDTH, 3, 7], left=(1, 2))
    below, last = _plain(lm, ids, mask)
    reader, end = Reader(lm, WIDTH, (depth,)), 0
    for n in pieces:
        now = slice(end, end + n)
        end += n
        with torch.no_grad():
            (left,), said = reader.read(ids[:, now], mask[:, now])
        real = mask[:, now]
        if depth:
            _near(left[real], below[:, now][real])
        assert left.shape == (3, n, below.shape[2] if depth else 0)
        _near(said[real[:, -1]], last[:, end - 1][real[:, -1]])


@every_family
def test_rows_that_leave_take_what_they_have_read_with_them(lm, family):
    depth = 0 if family == "unknown" else DEPTH
    ids, mask = padded_texts([WIDTH, 3, 7, 9], left=(1, 2, 3))
    below, last = _plain(lm, ids, mask)
    reader, rows, end = Reader(lm, WIDTH, (depth,)), torch.arange(4), 9
    with torch.no_grad():
        reader.read(ids[:, :end], mask[:, :end])
        for stay in ([3, 1, 0], [2, 1], [1]):
            reader.keep(torch.tensor(stay))
            rows = rows[stay]
            (left,), said = reader.read(ids[rows, end : end + 1], mask[rows, end : end + 1])
            if depth:
                _near(left[:, 0], below[rows, end])
            _near(said, last[rows, end])
            end += 1
    assert (rows.tolist(), end) == ([1], WIDTH)


@every_family
def test_a_place_without_a_token_is_never_looked_at_again(lm, family):
    """A gap in the middle of a row: what comes after it continues what came before."""
    ids, mask = padded_texts([WIDTH, WIDTH])
    mask[0, 5:8] = False
    short = ids[:1, mask[0]]
    _, last = _plain(lm, short, torch.ones_like(short, dtype=torch.bool))
    _, unbroken = _plain(lm, ids[1:], mask[1:])
    reader = Reader(lm, WIDTH)
    with torch.no_grad():
        for t in range(WIDTH):
            _, said = reader.read(ids[:, t : t + 1], mask[:, t : t + 1])
    _near(said[0], last[0, -1])
    _near(said[1], unbroken[0, -1])
