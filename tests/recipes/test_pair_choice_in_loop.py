import numpy as np
import pytest

from plaudit.feedback.people import Person
from plaudit.feedback.store import Store
from recipes import pair_choice_in_loop


@pytest.fixture
def pairs(tmp_path):
    store, random = Store.open(tmp_path / "project"), np.random.default_rng(0)
    for i in range(150):
        features = random.standard_normal((2, 8))
        ids = [
            store.add_completion(f"p {i}", f"{word} {i}", token_ids=[i], features=x)
            for word, x in zip(("short", "very much longer"), features, strict=True)
        ]
        store.add_item(*ids)
    found = pair_choice_in_loop.pairs_in(store, "train")
    store.close()
    return found


def test_an_answer_does_not_depend_on_the_side(pairs):
    person = Person("ann", value=lambda prompt, response: 100.0 * len(response))
    lines = [pair_choice_in_loop.answer(person, pair, "x") for pair in pairs]
    assert all(line["choice"] == ("a" if len(line["response_a"]) > len(line["response_b"]) else "b") for line in lines)
    leftmost = Person("ann", position=100.0)
    assert 40 < sum(pair_choice_in_loop.answer(leftmost, pair, "x")["choice"] == "a" for pair in pairs) < 110


class Ensemble:
    def gaps(self, pairs):
        return np.array([[float(ids[0]) for _, ids, _ in pairs], [0.0] * len(pairs)])


@pytest.mark.parametrize("strategy", pair_choice_in_loop.STRATEGIES)
def test_each_strategy_asks_about_distinct_pairs_of_the_pool(pairs, monkeypatch, strategy):
    monkeypatch.setattr(pair_choice_in_loop, "VOTES", 40)
    first, pool, people = pairs[:20], pairs[20:], [Person(f"person {i}") for i in range(10)]
    known = [pair_choice_in_loop.answer(people[0], pair, "first")["choice"] for pair in first]
    lines = pair_choice_in_loop.chosen(strategy, first, known, pool, Ensemble(), people, seed=1)
    prompts = [line["prompt"] for line in lines]
    assert len(set(prompts)) == len(prompts) == 40
    assert set(prompts) <= {prompt for prompt, _, _ in pool}
    assert len({line["annotator"] for line in lines}) == 10
    if strategy == "disagreement":  # here the spread grows with the number of the pair
        assert sum(int(prompt.split()[1]) >= 110 for prompt in prompts) >= 25
