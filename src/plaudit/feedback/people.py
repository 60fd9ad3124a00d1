"""How simulated people choose: pure functions of what is on the page, with biases of known strength.

The log odds for the left response are

    value(left) - value(right) + position + length * doublings + positivity * words

with the units of `biases`, which must find them again. A tie has the probability of Davidson's model, so the biases are
the same among the votes that are decisive. Source: Davidson 1970.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import expit

from plaudit.errors import FeedbackError
from plaudit.feedback.biases import doublings, positivity

Value: TypeAlias = Callable[[str, str], float | None]  # of a prompt and a response; None: the person cannot judge it


@dataclass(frozen=True)
class Person:
    """How somebody chooses. Strengths are log odds."""

    name: str
    value: Value = lambda prompt, response: 0.0
    position: float = 0.0  # for the response on the left
    length: float = 0.0  # for a response twice as long
    positivity: float = 0.0  # for each positive word more, or negative word less
    ties: float = 0.0  # probability of a tie between two responses of equal value
    lapses: float = 0.0  # probability of an answer at random
    skips: float = 0.0  # probability of skipping a pair
    bad: float = -np.inf  # both responses are bad if both are worth less than this
    strong: float = 3.0  # log odds beyond which a preference is strong
    seconds: float = 5.0  # that a vote takes: the median


def choose(person: Person, prompt: str, left: str, right: str, random: np.random.Generator) -> str:
    """A person's answer to a pair: left, right, tie, both_bad or skip; `-strong` is added to a strong preference."""
    lapse, skip, draw = random.random(
        3
    )  # always three, so that changing one setting leaves the other draws as they are
    worth = [person.value(prompt, response) for response in (left, right)]
    if skip < person.skips or None in worth:
        return "skip"
    if lapse < person.lapses:
        return "left" if draw < 0.5 else "right"
    first, second = (float(value) for value in worth if value is not None)
    if max(first, second) < person.bad:
        return "both_bad"
    bias = person.length * doublings(left, right) + person.positivity * (positivity(left) - positivity(right))
    odds = first - second + person.position + bias
    # Davidson: left, right and tie as exp(odds / 2) to exp(-odds / 2) to 2 ties / (1 - ties).
    tie = 1 / (1 + np.cosh(np.clip(odds, -60, 60) / 2) * (1 - person.ties) / max(person.ties, 1e-12))
    if draw < tie:
        return "tie"
    side = "left" if (draw - tie) / (1 - tie) < expit(odds) else "right"
    return side + "-strong" * (abs(odds) > person.strong)


def rated(ratings: Mapping[str, Sequence[float]], place: int, weight: float) -> Value:
    """The value of a text to the person at this place of its ratings: `weight` log odds a point.

    Beyond the last place it is the first person again. A text without ratings cannot be judged.
    """
    known = {words(text): numbers for text, numbers in ratings.items() if numbers}

    def value(prompt: str, response: str) -> float | None:
        found = known.get(words(response))
        return None if found is None else weight * found[place % len(found)]

    return value


def scored(score: Callable[[list[str], list[str]], Sequence[float]], weight: float) -> Value:
    """The value of a response by a reward function of prompts and responses: `weight` log odds a point."""
    lock = threading.Lock()  # people answer in threads, and functions of models are rarely made for that

    def value(prompt: str, response: str) -> float:
        with lock:
            found = float(score([prompt], [response])[0])
        if not np.isfinite(found):
            raise FeedbackError(f"the score of {response!r:.60} is {found}: return a finite number")
        return weight * found

    return value


def words(text: str) -> str:
    """`text` with single spaces, as texts are compared that a web page has shown."""
    return " ".join(text.split())
