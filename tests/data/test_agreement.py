import itertools

import numpy as np
import pytest

from plaudit.data import agreement
from plaudit.data.agreement import Pair, comparison, pairs, votes
from plaudit.records import Comparison, LabelledText, RatedText

WARM = RatedText("warm", (3, 2, 1, -1), 0)
DULL = RatedText("dull", (-2, 2, 0, 1), 0)
VOTES = np.array([[3, 1], [2, 2], [0, 5], [1, 0]])


def single_votes(votes):
    """For each pair a list of votes: 1 for a, -1 for b."""
    return [[1] * a + [-1] * b for a, b in votes.tolist()]


def test_people_vote_for_the_text_that_they_rated_higher_and_the_majority_decides():
    assert Pair(WARM, DULL).votes == (2, 1)  # the second person rated them equally
    assert comparison(Pair(WARM, DULL)) == Comparison("", "warm", "dull", "a")
    assert comparison(Pair(DULL, WARM)) == Comparison("", "dull", "warm", "b")
    assert comparison(Pair(WARM, RatedText("odd", (4, 1, 1, -1), 0))).choice == "tie"


def test_pairs_are_distinct_within_a_batch_and_depend_on_the_seed():
    rated = [RatedText(f"{batch}-{i}", (i, 0), batch) for batch in range(40) for i in range(5)]
    drawn = pairs(rated, 6, seed=1)
    assert len(drawn) == 40 * 6
    assert all(p.a.batch == p.b.batch and p.a != p.b for p in drawn)
    assert len({frozenset((p.a.text, p.b.text)) for p in drawn}) == len(drawn)
    assert pairs(rated, 6, seed=1) == drawn
    assert pairs(rated, 6, seed=2) != drawn
    assert len(pairs(rated, 1000, seed=1)) == 40 * 10  # all pairs
    assert 80 < sum(p.a.text < p.b.text for p in drawn) < 160  # the sides are random


def test_agreement_of_two_people_equals_an_enumeration():
    agreed = [x == y for pair in single_votes(VOTES) for x, y in itertools.permutations(pair, 2)]
    assert agreement.two_people(VOTES) == pytest.approx(np.mean(agreed))


def test_agreement_of_a_person_with_the_others_equals_an_enumeration():
    agreed = []
    for pair in single_votes(VOTES):
        for vote in pair:
            others = sum(pair) - vote
            agreed.append(0.5 if others == 0 else float(np.sign(others) == vote))
    assert agreement.person_and_others(VOTES) == pytest.approx(np.mean(agreed))


def test_agreement_of_a_model_by_hand():
    logits = np.array([0.3, 0.1, 2.0, -1.0])
    assert agreement.model_and_person(logits, VOTES) == pytest.approx((3 + 2 + 0 + 0) / 14)
    assert agreement.model_and_majority(logits, VOTES) == (1, 3)


def test_random_votes_agree_half_of_the_time_and_unanimous_votes_always():
    random = np.random.default_rng(0).binomial(15, 0.5, 20_000)
    votes = np.stack([random, 15 - random], 1)
    assert agreement.two_people(votes) == pytest.approx(0.5, abs=0.005)
    assert agreement.person_and_others(votes) == pytest.approx(0.5, abs=0.005)
    unanimous = np.array([[15, 0], [0, 15]])
    assert agreement.two_people(unanimous) == agreement.person_and_others(unanimous) == 1


def test_votes_have_two_columns_even_without_pairs():
    assert votes([]).shape == (0, 2)
    assert votes([Pair(WARM, DULL)]).tolist() == [[2, 1]]


def test_comparisons_from_labels_prefer_the_positive_text():
    labelled = [LabelledText(f"{label}-{i}", label) for i in range(50) for label in (0, 1)]
    comparisons = agreement.from_labels(labelled, seed=1)
    assert len(comparisons) == 50
    for c in comparisons:
        good, bad = (c.response_a, c.response_b) if c.choice == "a" else (c.response_b, c.response_a)
        assert (good[0], bad[0]) == ("1", "0")
    assert 10 < sum(c.choice == "a" for c in comparisons) < 40
    assert len({text for c in comparisons for text in (c.response_a, c.response_b)}) == 100
