import threading
import time

import numpy as np
import pytest
from feedback.labels import make_completion, make_label
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest

from plaudit.errors import FeedbackError
from plaudit.feedback.biases import effects
from plaudit.feedback.people import Person, choose, rated, scored
from plaudit.feedback.statistics import always_left, always_longer


def answers(person, left, right, n=2000, seed=0):
    random = np.random.default_rng(seed)
    return [choose(person, "", left, right, random).partition("-")[0] for _ in range(n)]


def likely(hits, n, p):
    return binomtest(hits, n, p).pvalue > 1e-3


@pytest.mark.parametrize(
    ("person", "left", "right", "odds"),
    [
        (Person("", position=0.7), "film", "film", 0.7),
        (Person("", length=0.5), "x" * 40, "x" * 10, 1.0),
        (Person("", positivity=0.4), "good funny", "dull plot!", 1.2),
        (Person("", value=lambda prompt, text: float(len(text)), position=-1.0), "aaa", "a", 1.0),
        (Person(""), "anything", "at all", 0.0),
    ],
)
@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_the_odds_of_the_left_response_are_as_said_among_decisive_votes(person, left, right, odds, ties):
    given_ = answers(Person(**{**vars(person), "ties": ties}), left, right)
    lefts, decisive = given_.count("left"), len(given_) - given_.count("tie")
    assert likely(lefts, decisive, expit(odds))
    # Davidson: tie to left to right as 2 ties / (1 - ties) to exp(odds / 2) to exp(-odds / 2).
    tie = (nu := 2 * ties / (1 - ties)) / (nu + np.exp(odds / 2) + np.exp(-odds / 2))
    assert likely(given_.count("tie"), len(given_), tie) if ties else given_.count("tie") == 0


def test_equal_responses_tie_with_the_probability_that_was_asked_for():
    assert likely(answers(Person("", ties=0.3), "one", "two").count("tie"), 2000, 0.3)


def test_lapses_skips_and_both_bad():
    sure = Person("", value=lambda prompt, text: 50.0 * (text == "good"))
    assert answers(sure, "good", "bad", 50) == ["left"] * 50
    assert likely(answers(Person(**{**vars(sure), "lapses": 0.4}), "good", "bad").count("right"), 2000, 0.2)
    assert likely(answers(Person(**{**vars(sure), "skips": 0.25}), "good", "bad").count("skip"), 2000, 0.25)
    picky = Person(**{**vars(sure), "bad": 1.0})
    assert answers(picky, "bad", "worse", 5) == ["both_bad"] * 5
    assert answers(picky, "bad", "good", 5) == ["right"] * 5


def test_a_large_difference_is_a_strong_preference():
    person = Person("", value=lambda prompt, text: float(text))
    random = np.random.default_rng(0)
    assert {choose(person, "", "9", "0", random) for _ in range(20)} == {"left-strong"}
    assert {choose(person, "", "1", "0", random) for _ in range(99)} == {"left", "right"}


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 0.99), st.integers(0, 9))
def test_no_value_is_too_large(one, other, ties, seed):
    person = Person("", value=lambda prompt, text: one if text == "l" else other, ties=ties)
    answer = choose(person, "", "l", "r", np.random.default_rng(seed))
    assert answer.partition("-")[0] in {"left", "right", "tie"}
    if abs(one - other) > 100:
        assert answer == ("left-strong" if one > other else "right-strong")


def test_people_disagree_as_those_who_rated_did():
    value = rated({"a  warm\nfilm": (3, -1, 0), "a dull film": (-3, 2, 0), "unrated": ()}, 1, weight=2.0)
    assert (value("", " a warm film "), value("", "a dull film")) == (-2.0, 4.0)
    assert rated({"text": (1, 2, 3)}, 4, 1.0)("", "text") == 2  # five people share three places
    assert value("", "another film") is None
    assert value("", "unrated") is None
    assert answers(Person("", value=value), "a warm film", "another film", 3) == ["skip"] * 3


def test_a_reward_function_is_asked_by_one_thread_at_a_time():
    busy = threading.Lock()

    def score(prompts, responses):
        assert busy.acquire(blocking=False)
        time.sleep(0.002)
        busy.release()
        assert prompts == ["p"]
        return [len(responses[0])]

    value, found = scored(score, 0.5), []
    threads = [threading.Thread(target=lambda: found.append(value("p", "four"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2.0] * 8
    with pytest.raises(FeedbackError, match="finite"):
        scored(lambda prompts, responses: [float("nan")], 1.0)("p", "r")


def test_the_biases_of_a_group_are_found_in_its_labels():
    """Six people with the same biases and somewhat different tastes, five votes a pair, sides at random."""
    strengths = {"position": 0.5, "length": 0.6, "positivity": 0.4}
    random = np.random.default_rng(3)
    filler, words = ["film", "story", "plot", "with"], ["good", "dull", "funny", "bad", "warm"]
    texts = {
        i: " ".join([*random.choice(words, random.integers(0, 3)), *random.choice(filler, random.integers(1, 9))])
        for i in range(160)
    }
    worth = {text: (random.normal(0, 0.8) + random.normal(0, 0.3, 6)).tolist() for text in texts.values()}
    people = [Person(str(i), rated(worth, i, 1.0), ties=0.1, **strengths) for i in range(6)]
    labels = []
    for a in range(0, 160, 2):
        for place in random.permutation(6)[:5]:
            left = "ab"[random.integers(2)]
            shown = (texts[a], texts[a + 1]) if left == "a" else (texts[a + 1], texts[a])
            answer = choose(people[place], "", *shown, random).partition("-")[0]
            outcome = {"left": left, "right": "ba"["ab".index(left)]}.get(answer, answer)
            labels.append(make_label(outcome, a, a + 1, left=left, annotator=int(place)))
    completions = {i: make_completion(i, text) for i, text in texts.items()}
    for effect in effects(labels, completions):
        assert effect.low < strengths[effect.name] < effect.high, effect
        assert effect.low > 0, effect
    assert always_left(labels).interval[0] > 0.5
    assert always_longer(labels, completions).interval[0] > 0.5
