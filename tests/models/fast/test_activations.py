import errno
import os

import pytest
import torch
from tiny import make_family

from plaudit.errors import RunError
from plaudit.models.fast import activations as module
from plaudit.models.fast.activations import ActivationCache, key
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import freeze_lower_layers

LENGTHS = [5, 1, 12, 3, 9, 2, 7, 7, 4, 11]
TEXTS = [[(7 * i + t) % 64 for t in range(n)] for i, n in enumerate(LENGTHS)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_texts_together(monkeypatch):
    monkeypatch.setattr(module, "_TEXTS_TOGETHER", 3)


@pytest.fixture(params=["gpt2", "llama"])
def lm(request):
    lm = make_family(request.param)
    freeze_lower_layers(lm, 1)
    return lm


def engine_for(lm, folder, texts=TEXTS, progress=lambda share: None):
    engine = FastEngine(torch.float32, folder / "new")
    engine.prepare(lm)
    engine.remember(lm, texts, progress)
    return engine


@torch.no_grad()
def states_of(engine, lm, batches):
    """The last hidden states (L, D) of each text, by its number in TEXTS."""
    found = {}
    for rows in batches:
        width = max(LENGTHS[row] for row in rows)
        ids = torch.tensor([TEXTS[row] + [63] * (width - LENGTHS[row]) for row in rows])
        mask = torch.arange(width) < torch.tensor([LENGTHS[row] for row in rows])[:, None]
        states = engine.hidden_states(lm, ids, mask, mask).split([LENGTHS[row] for row in rows])
        found |= dict(zip(rows, states, strict=True))
    return found


def numbers(text, depth=0.0):
    """Activations (L, 2) that name their text."""
    return torch.tensor(text).float()[:, None] + torch.tensor([depth, 0.5])


def test_every_text_has_the_states_that_it_has_alone(lm, tmp_path):
    found = states_of(engine_for(lm, tmp_path), lm, [[6, 0, 2, 5], [1, 9, 8], [3, 4, 7]])
    for row, states in found.items():
        with torch.no_grad():  # transformers' own forward over the bare text
            alone = lm.base_model(torch.tensor([TEXTS[row]])).last_hidden_state[0]
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_a_text_runs_through_the_frozen_layers_once(lm, tmp_path):
    runs, shares = [], []
    bottom = lm.base_model.h[0] if lm.config.model_type == "gpt2" else lm.base_model.layers[0]
    bottom.register_forward_hook(lambda *_: runs.append(1))
    engine = engine_for(lm, tmp_path, progress=shares.append)
    assert len(runs) == len(shares) == 4  # ten texts, three together
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert shares[0] == (1 + 2 + 3) / sum(LENGTHS)  # by tokens, which take the time
    for _ in range(3):
        states_of(engine, lm, [[3, 8], [0, 1, 2, 4], [5, 6, 7, 9]])
    assert len(runs) == 4


def test_a_large_cache_is_a_mapped_file_that_is_removed_at_once(lm, tmp_path, monkeypatch):
    everything = [list(range(10))]
    in_memory = states_of(engine_for(lm, tmp_path), lm, everything)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(module, "MAPPED_FROM", 0)
    engine = engine_for(lm, tmp_path)
    assert list((tmp_path / "new").iterdir()) == []
    mapped = states_of(engine, lm, everything)
    assert all(torch.equal(in_memory[row], mapped[row]) for row in in_memory)


def test_a_cache_is_mapped_from_its_size_on(tmp_path, monkeypatch):
    mapped, from_file = [], torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *args, **more: mapped.append(1) or from_file(*args, **more))
    size = sum(LENGTHS) * 2 * 4  # bytes of float32 numbers of width 2
    for limit, expected in ((size + 1, 0), (size, 1)):
        monkeypatch.setattr(module, "MAPPED_FROM", limit)
        ActivationCache(2, tmp_path).expect(TEXTS)
        assert len(mapped) == expected


def test_a_system_that_cannot_reserve_room_maps_a_file_too(lm, tmp_path, monkeypatch):
    in_memory = states_of(engine_for(lm, tmp_path), lm, [[0, 2]])
    monkeypatch.setattr(module, "MAPPED_FROM", 0)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    mapped = states_of(engine_for(lm, tmp_path), lm, [[0, 2]])
    assert all(torch.equal(in_memory[row], mapped[row]) for row in in_memory)


def test_a_full_disk_is_an_error_in_one_line_that_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "MAPPED_FROM", 0)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RunError, match=r"no room for 0\.0 GiB of activations: No space left on device") as error:
        ActivationCache(2, tmp_path).expect(TEXTS)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_known_by_its_token_ids():
    assert key([1, 2, 3]) == key(torch.tensor([1, 2, 3]).numpy())
    assert len({key(text) for text in ([1, 2], [2, 1], [1, 2, 0], [258], [2, 1, 0, 0])}) == 5


def test_activations_come_back_in_the_order_of_the_question(tmp_path):
    cache, names = ActivationCache(2, tmp_path), [key(text) for text in TEXTS]
    cache.expect(TEXTS[:4])
    cache.add(names, [numbers(text) for text in TEXTS])
    assert cache.missing(names) == ()
    for order in ([0, 5, 2], [9, 3, 3, 1]):
        expected = torch.cat([numbers(TEXTS[i]) for i in order])
        assert torch.equal(cache.get([names[i] for i in order], CPU), expected)


def test_a_data_set_is_computed_in_batches_by_length_and_other_texts_together(tmp_path):
    cache = ActivationCache(2, tmp_path)
    batches = cache.expect(TEXTS[:6] + TEXTS[:2])
    by_length = sorted(range(6), key=lambda i: LENGTHS[i])
    assert [set(some) for some in batches] == [
        {key(TEXTS[i]) for i in by_length[:3]},
        {key(TEXTS[i]) for i in by_length[3:]},
    ]
    assert cache.expect(TEXTS) == []  # there is one data set
    assert cache.missing([key(TEXTS[i]) for i in (by_length[4], 8, 7, 8)]) == (key(TEXTS[8]), key(TEXTS[7]))


def test_new_responses_replace_those_of_the_last_iteration_and_a_data_set_remains(tmp_path):
    cache, names = ActivationCache(2, tmp_path), [key(text) for text in TEXTS]
    cache.expect(TEXTS[:3])
    cache.add(names[:3], [numbers(text) for text in TEXTS[:3]])
    cache.keep(names[3:6], [numbers(text) for text in TEXTS[3:6]])
    cache.keep(names[5:8], [numbers(text, depth=2.0) for text in TEXTS[5:8]])
    assert cache.missing(names) == (names[3], names[4], names[8], names[9])
    assert torch.equal(cache.get([names[5]], CPU), numbers(TEXTS[5], depth=2.0))
    assert torch.equal(cache.get([names[1]], CPU), numbers(TEXTS[1]))


def test_where_nothing_is_frozen_nothing_is_cached(tmp_path):
    lm = make_family("gpt2")
    engine, runs = engine_for(lm, tmp_path), []
    lm.transformer.h[0].register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        states_of(engine, lm, [[0, 1]])
    assert len(runs) == 2
