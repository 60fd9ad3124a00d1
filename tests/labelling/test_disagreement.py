"""Which pairs people are asked about when the members of a reward model disagree."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelling.test_rounds import SMALL, Person

from plaudit.cli import main
from plaudit.config import build
from plaudit.errors import RunError
from plaudit.feedback.store import Store
from plaudit.labelling.disagreement import CANDIDATES, MEMBERS, RANDOM_SHARE, Ensemble, disputed
from plaudit.labelling.pairs import Author, write_pairs
from plaudit.labelling.rounds import loop
from plaudit.pipeline import steps
from plaudit.training.run import Run


@given(st.integers(1, 6), st.integers(1, 40), st.data())
def test_distinct_pairs_are_chosen_and_most_of_them_have_the_largest_spread(members, candidates, data):
    number, seed = data.draw(st.integers(0, candidates)), data.draw(st.integers(0, 99))
    gaps = np.random.default_rng(seed).standard_normal((members, candidates))
    chosen = disputed(gaps, number, np.random.default_rng(seed))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == number
    assert set(chosen) <= set(range(candidates))


def test_a_quarter_is_random():
    gaps = np.outer([-1.0, 1.0], np.arange(400.0))
    by_chance = sum(place < 300 for seed in range(50) for place in disputed(gaps, 100, np.random.default_rng(seed)))
    # Of those drawn at random, a quarter are among the most disputed anyway; the next in rank take their places.
    assert 0.7 * RANDOM_SHARE < by_chance / (50 * 100) < 1.1 * RANDOM_SHARE


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_config):
    settings = {"model": tiny_config.model, "data": tiny_config.data.name, **SMALL, "reward_model.members": 3}
    run = Run.open(
        tmp_path_factory.mktemp("ensemble") / "run", build(settings), resume=False, overwrite=False,
        stages=("sft", "reward_model"),
    )  # fmt: skip
    for _ in steps(run, ("sft", "reward_model")):
        pass
    return run


def test_gaps_are_those_of_each_member(run):
    ensemble = Ensemble(run)
    ids = [ensemble.tokenizer.hf(text)["input_ids"] for text in (" good film", " a bad one and a long one", " so so")]
    pairs = [("the film", ids[0], ids[1]), ("a story", ids[2], ids[0])]
    gaps = ensemble.gaps(pairs)
    assert gaps.shape == (3, 2)
    assert gaps.std(0).min() > 0
    turned = ensemble.gaps([(prompt, b, a) for prompt, a, b in pairs])
    np.testing.assert_allclose(turned, -gaps, atol=1e-5)


def test_the_pairs_that_are_written_are_disputed_more(run, tmp_path):
    author, ensemble = Author(run, "sft"), Ensemble(run)
    spreads = {}
    for name, given_ensemble in (("random", None), ("disputed", ensemble)):
        store = Store.open(tmp_path / name)
        for made in write_pairs(store, (author, author), author, 40, ensemble=given_ensemble):
            assert made <= 40
        items = store.items("train")
        texts = store.completions({one for item in items for one in (item.a, item.b)})
        prompts = store.prompts({item.prompt for item in items})
        pairs = [(prompts[item.prompt], list(texts[item.a].token_ids), list(texts[item.b].token_ids)) for item in items]
        spreads[name] = ensemble.gaps(pairs).std(0)
        assert len(items) > 25
        assert all(text.features is not None for text in texts.values())
        assert (store.progress()["pairs"].done, store.progress()["pairs"].total) == (40, 40)
        store.close()
    assert spreads["disputed"].mean() > 1.2 * spreads["random"].mean()
    assert CANDIDATES > 1


def test_one_reward_model_is_refused(tmp_path, tiny_config, capsys):
    settings = {"model": tiny_config.model, "data": tiny_config.data.name, **SMALL}
    run = Run.open(
        tmp_path / "run", build(settings), resume=False, overwrite=False, stages=("sft", "reward_model")
    )  # fmt: skip
    assert main(["label", str(run.path), "--ask", "disagreement"]) == 1
    assert "--ask disagreement needs a reward model with several members" in capsys.readouterr().err
    assert not (run.path / "feedback").exists()
    for _ in steps(run, ("sft", "reward_model")):
        pass
    with pytest.raises(RunError, match="cannot disagree with itself"):
        Ensemble(run)


def test_pairs_from_elsewhere_are_not_chosen_among(tmp_path, capsys):
    assert main(["label", str(tmp_path), "--ask", "disagreement", "--pairs", "votes.jsonl"]) == 2
    assert "leave out --pairs or --ask" in capsys.readouterr().err


def test_a_loop_trains_an_ensemble_and_asks_where_it_disagrees(tmp_path, tiny_config):
    config = build({"model": tiny_config.model, "data": tiny_config.data.name, **SMALL})
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft",))
    store = Store.open(run.path / "feedback")
    rounds = list(loop(run, store, rounds=2, votes=40, disagreement=True, wait=Person(store)))
    assert len(rounds) == 2
    for number in ("1", "2"):
        child = Run.existing(run.path / "rounds" / number)
        assert child.summary("reward_model")["members"]["count"] == MEMBERS
    assert json.loads((run.path / "loop.json").read_text())["rounds"][1]["compared"] > 0
    store.close()
