import numpy as np
import pytest

from plaudit.errors import FeedbackError
from plaudit.feedback.assignment import Plan
from plaudit.feedback.people import Person
from plaudit.feedback.statistics import always_left
from plaudit.feedback.store import Store
from plaudit.lesson.votes import answer, ask, vote

PLAN = Plan(overlap=3, votes=20, practice=0)
LIKES_A = Person("likes a", lambda prompt, response: 60.0 * response.startswith("a"))


@pytest.fixture
def store(tmp_path):
    """Thirty pairs; the text of response a begins with a."""
    project = Store.open(tmp_path / "project")
    for i in range(30):
        project.add_item(*(project.add_completion(f"prompt {i}", f"{side} {i}") for side in "ab"))
    yield project
    project.close()


def _people(**strength):
    return [Person(f"person {i}", **strength) for i in range(4)]


def test_everybody_votes_as_the_plan_says_and_as_he_or_she_likes(store):
    vote(store, [Person(f"person {i}", LIKES_A.value) for i in range(4)], PLAN, seed=0)
    first = [label for label in store.labels() if not label.repeat]
    counts = np.bincount([label.annotator for label in first])
    assert counts[counts > 0].tolist() == [20] * 4
    assert {label.outcome for label in store.labels()} == {"a"}
    assert {label.left for label in first} == {"a", "b"}
    assert len(store.labels()) > len(first)  # some pairs come again


def test_the_side_moves_those_who_prefer_a_side(store):
    vote(store, _people(position=60.0), PLAN, seed=0)
    assert always_left(store.labels()).value == 1


def test_the_same_seed_gives_the_same_votes(store, tmp_path):
    again = Store.open(tmp_path / "again")
    for item in store.items():
        texts = store.completions([item.a, item.b])
        again.add_item(*(again.add_completion(f"prompt {item.id - 1}", texts[one].text) for one in (item.a, item.b)))
    outcomes = []
    for project, seed in ((store, 3), (again, 3)):
        vote(project, _people(), PLAN, seed)
        outcomes.append([(label.annotator, label.item, label.outcome) for label in project.labels()])
    again.close()
    assert outcomes[0] == outcomes[1]
    assert len({outcome for *_, outcome in outcomes[0]}) == 2


def test_letters_are_votes_for_the_text_on_that_side(store):
    asked = ask(store, "me", PLAN, 6)
    assert len({pair.item for pair in asked}) == 6
    assert answer(store, asked, " lrR=\nLr", LIKES_A, seed=0) == "LRR=LR"
    labels = {label.assignment: label for label in store.labels()}
    for pair, letter in zip(asked, "LRR=LR", strict=True):
        chosen = {"L": pair.left, "R": pair.right}.get(letter, "tie")
        assert labels[pair.id].outcome == chosen[0] if letter != "=" else labels[pair.id].outcome == "tie"


def test_without_letters_the_stand_in_answers(store):
    asked = ask(store, "me", PLAN, 6)
    letters = answer(store, asked, None, LIKES_A, seed=0)
    assert letters == "".join("L" if pair.left.startswith("a") else "R" for pair in asked)
    assert [label.outcome for label in store.labels()] == ["a"] * 6


def test_the_same_reader_is_asked_other_pairs_the_second_time(store):
    first = ask(store, "me", PLAN, 6)
    answer(store, first, "LLLLLL", LIKES_A, seed=0)
    second = ask(store, "me", PLAN, 6)
    assert not {pair.item for pair in first} & {pair.item for pair in second if not pair.repeat}
    assert {pair.annotator for pair in first} == {pair.annotator for pair in second}


@pytest.mark.parametrize(
    ("letters", "message"),
    [("LRX", "'X' is no vote: write L, R or = for each pair"), ("LRLR", "4 votes for 3 pairs: write one letter")],
)
def test_other_letters_and_numbers_are_refused_and_nothing_is_recorded(store, letters, message):
    asked = ask(store, "me", PLAN, 3)
    with pytest.raises(FeedbackError, match=message):
        answer(store, asked, letters, LIKES_A, seed=0)
    assert store.labels() == []


def test_more_pairs_than_there_are_cannot_be_asked(store):
    with pytest.raises(FeedbackError, match="there are only 20 pairs to ask about, not 21"):
        ask(store, "me", PLAN, 21)
