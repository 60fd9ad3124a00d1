from contextlib import nullcontext

import pytest
import torch
from tiny import make_family

from plaudit.models import states as module
from plaudit.models.states import FrozenStates

LENGTHS = [5, 1, 12, 3, 9, 2, 7, 7, 4, 11]
TEXTS = [[(7 * i + t) % 64 for t in range(n)] for i, n in enumerate(LENGTHS)]


@pytest.fixture(autouse=True)
def _three_at_once(monkeypatch):
    monkeypatch.setattr(module, "_TEXTS_AT_ONCE", 3)


@pytest.fixture(params=["gpt2", "llama"])
def lm(request):
    return make_family(request.param)


def _batch(rows):
    width = max(LENGTHS[row] for row in rows)
    return torch.tensor([TEXTS[row] + [63] * (width - LENGTHS[row]) for row in rows])


def _states(lm, tmp_path, depth=2, texts=TEXTS, **kwargs):
    return FrozenStates(lm, depth, texts, nullcontext, tmp_path / "new", **kwargs)


def _visited(states, batches):
    """What is said of each text, by text."""
    found = {}
    for rows in batches:
        below = states.of(rows, _batch(rows))
        found |= {row: below.states[i, : LENGTHS[row]] for i, row in enumerate(rows)}
    return found


@pytest.mark.parametrize("depth", [1, 2])
def test_every_text_has_the_states_that_it_has_alone(lm, tmp_path, depth):
    states, rows = _states(lm, tmp_path, depth), [6, 0, 2, 5]
    below = states.of(rows, _batch(rows))
    assert below.depth == depth
    assert below.states.shape == (4, 12, 16)
    for i, row in enumerate(rows):
        with torch.no_grad():  # transformers' own forward over the bare text
            alone = lm.base_model(torch.tensor([TEXTS[row]]), output_hidden_states=True).hidden_states[depth][0]
        torch.testing.assert_close(below.states[i, : LENGTHS[row]], alone, rtol=1e-4, atol=1e-5)
        assert not below.states[i, LENGTHS[row] :].any()


def test_the_order_of_visits_changes_no_bit(lm, tmp_path):
    there = _visited(_states(lm, tmp_path), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])
    back = _visited(_states(lm, tmp_path), [[9], [8, 2], [7, 0, 5], [1, 6, 4, 3]])
    assert there.keys() == back.keys() == set(range(10))
    assert all(torch.equal(there[row], back[row]) for row in there)


def test_what_is_too_large_for_memory_lies_in_a_file_that_nobody_finds(lm, tmp_path, monkeypatch):
    everything = [list(range(10))]
    held = _visited(_states(lm, tmp_path), everything)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(module, "MAPPED_FROM", 0)
    mapped = _visited(_states(lm, tmp_path), everything)
    assert all(torch.equal(held[row], mapped[row]) for row in held)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_text_is_run_once_however_often_it_is_visited(lm, tmp_path, monkeypatch):
    run, real = [], module.states_below

    def counted(model, depth, ids, mask, below):
        run.append(int(mask.sum()))
        return real(model, depth, ids, mask, below)

    monkeypatch.setattr(module, "states_below", counted)
    states = _states(lm, tmp_path)
    assert run == []
    for _ in range(3):
        _visited(states, [[3, 8], [0, 1, 2, 4], [5, 6, 7, 9]])
    assert len(run) == 4
    assert sum(run) == sum(LENGTHS)


def test_where_nothing_is_frozen_nothing_is_kept(lm, tmp_path):
    below = _states(lm, tmp_path, depth=0).of([0, 1], _batch([0, 1]))
    assert (below.depth, below.states.shape) == (0, (2, 5, 0))


@pytest.mark.parametrize("pass_on", [1, 2])
def test_what_is_passed_on_is_what_the_next_stage_would_compute(lm, tmp_path, monkeypatch, pass_on):
    """To the last bit: a stage that goes on in another process computes it itself."""
    first = _states(lm, tmp_path, pass_on=pass_on)
    everything = [list(range(len(TEXTS)))]
    with_two, alone = _visited(first, [[0, 5]]), _visited(_states(lm, tmp_path), everything)
    assert all(torch.equal(states, alone[row]) for row, states in with_two.items())
    plain = _visited(_states(lm, tmp_path, pass_on), everything)
    texts_run, real = [], module.states_below
    monkeypatch.setattr(module, "states_below", lambda *args: texts_run.append(len(args[2])) or real(*args))
    then = _visited(_states(lm, tmp_path, pass_on, earlier=first.passed_on), everything)
    assert sum(texts_run) < len(TEXTS)  # but not those that nobody had asked for
    assert all(torch.equal(states, plain[row]) for row, states in then.items())


@pytest.mark.parametrize(("depth", "texts"), [(2, TEXTS), (1, [*TEXTS[1:], TEXTS[0]])], ids=["depth", "texts"])
def test_what_is_passed_on_is_used_for_the_very_same_texts_and_blocks_alone(lm, tmp_path, depth, texts):
    first = _states(lm, tmp_path, pass_on=1)
    _visited(first, [list(range(len(TEXTS)))])
    ids = torch.tensor([texts[3] + [63] * (12 - len(texts[3]))])
    plain = _states(lm, tmp_path, depth, texts).of([3], ids)
    assert torch.equal(_states(lm, tmp_path, depth, texts, earlier=first.passed_on).of([3], ids).states, plain.states)


def test_nothing_is_passed_on_from_above_the_frozen_blocks(lm, tmp_path):
    assert _states(lm, tmp_path, 1, pass_on=2).passed_on is None
    assert _states(lm, tmp_path, 0, pass_on=1).passed_on is None
    assert _states(lm, tmp_path, 2).passed_on is None
