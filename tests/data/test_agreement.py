import itertools

import numpy as np
import pytest

from plaudit.data import agreement
from plaudit.data.agreement import Pair, comparison, pairs, votes
from plaudit.records import Comparison, LabelledText, RatedText

WARM = RatedText("warm", (3, 2, 1, -1), 0)
DULL = RatedText("dull", (-2, 2, 0, 1), 0)
FOUND = np.array([[3, 1], [2, 2], [0, 5], [1, 0]])


def each_vote(found):
    return [[1] * a + [-1] * b for a, b in found.tolist()]


def test_each_person_votes_for_what_he_or_she_rated_higher_and_most_people_choose():
    assert Pair(WARM, DULL).votes == (2, 1)  # the second rated them alike
    assert comparison(Pair(WARM, DULL)) == Comparison("", "warm", "dull", "a")
    assert comparison(Pair(DULL, WARM)) == Comparison("", "dull", "warm", "b")
    assert comparison(Pair(WARM, RatedText("odd", (4, 1, 1, -1), 0))).choice == "tie"


def test_pairs_are_of_one_batch_distinct_and_drawn_by_the_seed():
    rated = [RatedText(f"{batch}-{i}", (i, 0), batch) for batch in range(40) for i in range(5)]
    drawn = pairs(rated, 6, seed=1)
    assert len(drawn) == 40 * 6
    assert all(p.a.batch == p.b.batch and p.a != p.b for p in drawn)
    assert len({frozenset((p.a.text, p.b.text)) for p in drawn}) == len(drawn)
    assert pairs(rated, 6, seed=1) == drawn
    assert pairs(rated, 6, seed=2) != drawn
    assert len(pairs(rated, 1000, seed=1)) == 40 * 10  # all there are
    first = sum(p.a.text < p.b.text for p in drawn)
    assert 80 < first < 160  # the side says nothing


def test_two_people_by_enumeration():
    alike = [x == y for vote in each_vote(FOUND) for x, y in itertools.permutations(vote, 2)]
    assert agreement.two_people(FOUND) == pytest.approx(np.mean(alike))


def test_a_person_and_the_others_by_enumeration():
    right = []
    for vote in each_vote(FOUND):
        for own in vote:
            others = sum(vote) - own
            right.append(0.5 if others == 0 else float(np.sign(others) == own))
    assert agreement.person_and_others(FOUND) == pytest.approx(np.mean(right))


def test_a_model_beside_people():
    logits = np.array([0.3, 0.1, 2.0, -1.0])
    assert agreement.model_and_person(logits, FOUND) == pytest.approx((3 + 2 + 0 + 0) / 14)
    assert agreement.model_and_majority(logits, FOUND) == (1, 3)


def test_people_who_throw_coins_agree_half_of_the_time_and_those_of_one_mind_always():
    coins = np.random.default_rng(0).binomial(15, 0.5, 20_000)
    found = np.stack([coins, 15 - coins], 1)
    assert agreement.two_people(found) == pytest.approx(0.5, abs=0.005)
    assert agreement.person_and_others(found) == pytest.approx(0.5, abs=0.005)
    one_mind = np.array([[15, 0], [0, 15]])
    assert agreement.two_people(one_mind) == agreement.person_and_others(one_mind) == 1


def test_votes_of_no_pairs_have_their_shape():
    assert votes([]).shape == (0, 2)
    assert votes([Pair(WARM, DULL)]).tolist() == [[2, 1]]


def test_without_people_a_positive_text_beats_a_negative_one():
    made = agreement.from_labels([LabelledText(f"{label}-{i}", label) for i in range(50) for label in (0, 1)], 1)
    assert len(made) == 50
    for one in made:
        good, bad = (one.response_a, one.response_b) if one.choice == "a" else (one.response_b, one.response_a)
        assert (good[0], bad[0]) == ("1", "0")
    assert 10 < sum(one.choice == "a" for one in made) < 40
    assert len({text for one in made for text in (one.response_a, one.response_b)}) == 100
