import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data.agreement import two_people
from plaudit.data.judgements import Judgement, judgements_of, votes_of_people
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.records import Comparison, LabelledText, Ranking


def of(*comparisons):
    return judgements_of(Part(comparisons=comparisons))


def test_each_record_is_a_judgement():
    assert of(Comparison("p", "one", "two", "b")) == [Judgement("p", ("one", "two"), 0.0)]
    assert judgements_of(Part(rankings=(Ranking("p", ("one", "two", "six")),))) == [
        Judgement("p", ("one", "two", "six"))
    ]
    assert judgements_of(Part(labelled=(LabelledText("one", 0.3, "p"),))) == [Judgement("p", ("one",), 0.3)]


def test_votes_on_a_pair_are_shares_in_whatever_order_each_person_saw_it():
    (pair,) = of(
        Comparison("p", "one", "two", "a", "ann", margin=1.0),
        Comparison("p", "two", "one", "b", "bob", margin=3.0),
        Comparison("p", "one", "two", "b", "cid"),
        Comparison("p", "two", "one", "tie", "dan"),
    )
    assert pair.texts == ("one", "two")
    assert pair.weight == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert pair.margin == pytest.approx(4 / 3)  # of those who chose
    assert pair.people == (("ann", 1.0), ("bob", 1.0), ("cid", 0.0), ("dan", 0.5))
    assert not pair.in_order


def test_somebody_who_always_prefers_the_first_has_no_preference_and_one_vote():
    (pair,) = of(
        Comparison("p", "one", "two", "a", "ann"),
        Comparison("p", "two", "one", "a", "ann"),
        Comparison("p", "one", "two", "a", "bob"),
    )
    assert pair.weight == 0.75
    assert pair.people == (("ann", 0.5), ("bob", 1.0))


def test_the_same_texts_to_another_prompt_are_another_pair():
    assert [j.prompt for j in of(Comparison("p", "one", "two", "a"), Comparison("q", "two", "one", "a"))] == ["p", "q"]


def test_votes_without_names_count_each_and_are_nobody_s():
    (pair,) = of(Comparison("p", "one", "two", "a"), Comparison("p", "two", "one", "a"))
    assert (pair.weight, pair.people) == (0.5, ())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("a", "b", "tie")), st.booleans(), st.sampled_from("xyz"))), st.randoms())
def test_shares_do_not_depend_on_the_order_of_the_records(cast, random):
    comparisons = [
        Comparison("p", *(("two", "one") if turned else ("one", "two")), choice, name) for choice, turned, name in cast
    ]
    if not comparisons:
        return
    (one,) = of(*comparisons)
    random.shuffle(comparisons)
    (other,) = of(*comparisons)
    same = one.texts == other.texts
    assert one.weight == pytest.approx(other.weight if same else 1 - other.weight)
    assert one.in_order == other.in_order


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(), "neither labels nor comparisons nor rankings"),
        (
            Part(rankings=(Ranking("p", ("only",)),)),
            "a ranking has fewer than two responses ('only'): give two or more",
        ),
        (Part(rankings=(Ranking("p", ()),)), "a ranking has fewer than two responses (none)"),
        (Part(labelled=(LabelledText("good", 5),)), "label 5 of 'good': must be between 0 (bad) and 1 (good)"),
        (Part(labelled=(LabelledText("good", float("nan")),)), "label nan of 'good'"),
        (Part(comparisons=(Comparison("p", "x", "y", "a", margin=-1.0),)), "margin -1 of 'x': must be 0 or more"),
        (Part(comparisons=(Comparison("p", "x", "y", "a", margin=float("inf")),)), "margin inf"),
    ],
)
def test_what_is_no_judgement_is_refused_in_one_line(part, message):
    with pytest.raises(DataError) as caught:
        judgements_of(part)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_people_are_counted_where_two_or_more_have_voted():
    judged = of(
        Comparison("p", "one", "two", "a", "ann"),
        Comparison("p", "two", "one", "b", "bob"),
        Comparison("p", "one", "two", "b", "cid"),
        Comparison("p", "one", "two", "tie", "dan"),
        Comparison("q", "one", "two", "a", "ann"),
        Comparison("r", "one", "two", "a"),
        Comparison("r", "two", "one", "b"),
    )
    votes, gaps = votes_of_people(judged, np.array([3.0, 1, 0, 0, 0, 0]))
    assert votes.tolist() == [[2, 1]]
    assert gaps.tolist() == [2]
    assert two_people(votes) == pytest.approx(1 / 3)
    assert votes_of_people(of(Comparison("p", "x", "y", "a")), np.zeros(2))[0].shape == (0, 2)


def test_people_who_rank_the_same_responses_vote_on_their_pairs():
    rankings = (Ranking("p", ("x", "y", "z"), "ann"), Ranking("p", ("y", "x", "z"), "bob"), Ranking("p", ("z", "x")))
    votes, gaps = votes_of_people(judgements_of(Part(rankings=rankings)), np.array([3.0, 2, 1, 2, 3, 1, 1, 3]))
    assert votes.tolist() == [[1, 1], [2, 0], [2, 0]]  # x or y, x or z, y or z
    assert gaps.tolist() == [1, 2, 1]
