import numpy as np
import pytest

from plaudit.data.agreement import Pair
from plaudit.feedback.head import Pool, fit
from plaudit.records import RatedText
from recipes import pair_choice


def test_people_answer_as_they_rated():
    pair = Pair(RatedText("one", (3, -1, 0), 0), RatedText("two", (1, 2, 0), 0))
    assert pair_choice.ballots(pair) == [1.0, 0.0, 0.5]


def test_samples_share_no_sentence():
    rated = [RatedText(f"{batch}-{i}", (i, i + 1), batch) for batch in range(70) for i in range(30)]
    parts = [{text.text for pair in part for text in (pair.a, pair.b)} for part in pair_choice.sample(rated)]
    assert all(parts)
    assert not parts[0] & parts[1]


@pytest.fixture
def pool():
    return Pool.of(dict(enumerate(np.random.default_rng(0).standard_normal((60, 5)))))


def test_the_most_telling_pairs_are_asked_and_a_quarter_is_random(pool, monkeypatch):
    z = pool.differences([(i, i + 1) for i in range(59)])
    head, open_pairs = fit(z[:0], np.zeros(0)), np.arange(5, 59)
    telling = [int(place) for place in open_pairs[np.argsort(-head.information(z[open_pairs]))]]
    random, by_chance = np.random.default_rng(0), 0
    for _ in range(50):
        chosen = pair_choice.asked("uncertain", head, z, open_pairs, random)
        assert len(set(chosen)) == pair_choice.TOGETHER
        by_chance += sum(place not in telling[: pair_choice.TOGETHER] for place in chosen)
        assert (
            len(set(pair_choice.asked("random", head, z, open_pairs, random)) - set(range(5))) == pair_choice.TOGETHER
        )
    share = by_chance / (50 * pair_choice.TOGETHER)
    assert 0.1 < share < 0.35


@pytest.mark.parametrize("strategy", ["random", "uncertain"])
def test_the_curve_rises_to_what_people_value(pool, monkeypatch, strategy):
    monkeypatch.setattr(pair_choice, "LOOKS", (8, 64))
    random = np.random.default_rng(1)
    ids = [tuple(int(i) for i in random.choice(60, 2, replace=False)) for _ in range(200)]
    z = pool.differences(ids)
    likes = z[:, 0] > 0
    held = np.stack([likes[100:], ~likes[100:]], 1).astype(float)
    curve = pair_choice.learning_curve(strategy, z[:100], [[float(x)] for x in likes[:100]], z[100:], held, 0)
    assert len(curve) == 2
    assert curve[1] > max(0.85, curve[0])


def test_votes_for_an_accuracy_are_interpolated(monkeypatch):
    monkeypatch.setattr(pair_choice, "LOOKS", (10, 20, 40))
    assert pair_choice.votes_for(0.65, np.array([0.5, 0.6, 0.7])) == pytest.approx(30)
    assert pair_choice.votes_for(0.65, np.array([0.5, 0.8, 0.7])) == pytest.approx(15)
    assert pair_choice.votes_for(0.9, np.array([0.5, 0.6, 0.7])) == np.inf
