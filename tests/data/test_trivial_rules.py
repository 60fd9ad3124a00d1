import numpy as np
import pytest

from plaudit.data.judgements import Judgement
from plaudit.data.trivial_rules import trivial_rules
from plaudit.records import Message


def means(train, held_out):
    return {name: float(right.mean()) for name, right in trivial_rules(train, held_out).items()}


def labels(n, share, first=0):
    """Texts of which a share is good; a word tells which."""
    return [
        Judgement("", (f"the film {i} is {'fine' if i % 10 < 10 * share else 'poor'}",), float(i % 10 < 10 * share))
        for i in range(first, first + n)
    ]


def test_of_labels_the_more_frequent_one_and_a_bag_of_words():
    assert means(labels(100, 0.7), labels(50, 0.3)) == {"bag of words": 1.0, "the more frequent label": 0.3}
    assert means(labels(100, 0.2), labels(50, 0.3))["the more frequent label"] == 0.7


def test_soft_labels_count_on_their_side_of_a_half():
    train = [Judgement("", (f"{'fine' if i % 2 else 'poor'} {i}",), 0.75 if i % 2 else 0.3) for i in range(40)]
    held_out = [*train[:10], Judgement("", ("neither",), 0.5)]
    right = trivial_rules(train, held_out)
    assert right["bag of words"].tolist() == [1.0] * 10


def pairs(n, longer_share, in_order=True):
    """Pairs whose first text is longer; a share of them is preferred."""
    return [
        Judgement(f"q{i}", ("a long answer", "short"), float(i % 10 < 10 * longer_share), in_order=in_order)
        for i in range(n)
    ]


def test_of_comparisons_the_longer_the_first_and_a_bag_of_words():
    found = means(pairs(50, 0.8), pairs(50, 0.8))
    assert found == pytest.approx({"bag of words": 0.8, "longer wins": 0.8, "shorter wins": 0.2, "first wins": 0.8})


def test_the_order_is_half_right_where_people_saw_different_orders():
    assert means(pairs(50, 0.8), pairs(50, 0.8, in_order=False))["first wins"] == 0.5


def test_the_order_is_no_rule_where_it_is_the_judgement_itself():
    preferred_first = [Judgement(f"q{i}", (f"good {i}", f"bad {i}")) for i in range(20)]
    assert "first wins" not in trivial_rules(preferred_first, preferred_first)
    ranked = [Judgement(f"q{i}", (f"good {i}", f"so so {i}", f"bad {i}")) for i in range(20)]
    assert "first wins" not in trivial_rules(ranked, ranked)


def test_equal_lengths_are_half_right():
    train = [Judgement(f"q{i}", ("yes", "not"), float(i % 2)) for i in range(20)]
    found = means(train, train)
    assert found["longer wins"] == found["shorter wins"] == 0.5


def test_a_bag_of_words_ranks_by_the_words_that_win():
    def ranked(first, n):
        return [Judgement("q", (f"good {i}", f"fair {i}", f"bad {i}")[: 2 + i % 2]) for i in range(first, first + n)]

    assert means(ranked(0, 40), ranked(40, 20))["bag of words"] == 1.0
    upside_down = [Judgement("q", judgement.texts[::-1]) for judgement in ranked(40, 20)]
    assert means(ranked(0, 40), upside_down)["bag of words"] == 0.0


def test_words_of_any_language_are_words():
    texts = [("хороший фильм", 1.0), ("плохой фильм", 0.0), ("好 电影", 1.0), ("坏 电影", 0.0), ("!", 0.0), ("👍", 1.0)]
    judged = [Judgement("", (text,), label) for text, label in texts * 5]
    assert means(judged, judged[:6])["bag of words"] == 1.0


def test_rules_see_judgements_that_are_ties_but_are_not_measured_on_them():
    held_out = [*pairs(10, 1.0), Judgement("tie", ("one", "two"), 0.5)]
    for right in trivial_rules([*pairs(40, 0.8), held_out[-1]], held_out).values():
        assert len(right) == 10
        assert np.isin(right, (0, 0.5, 1)).all()


def test_a_reply_in_a_dialogue_is_its_words():
    def reply(text):
        return (Message("assistant", text),)

    train = [Judgement("", (reply(f"good {i}"), reply(f"bad and long {i}"))) for i in range(20)]
    assert means(train, train) == {"bag of words": 1.0, "longer wins": 0.0, "shorter wins": 1.0}


def test_texts_without_a_word_are_half_right():
    blank = [Judgement("", (" ",), float(i % 2)) for i in range(10)]
    assert means(blank, blank)["bag of words"] == 0.5
