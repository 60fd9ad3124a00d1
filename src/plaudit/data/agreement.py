"""Comparisons out of ratings, and how far people agree on them. Pure functions.

Two texts that the same people rated make a pair. Each person votes for the text that he or she rated higher, and
abstains who rated them alike. The pair's choice is what more people voted for, and a tie where as many did.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plaudit import rng
from plaudit.records import Comparison, LabelledText, RatedText


@dataclass(frozen=True)
class Pair:
    """Two texts that the same people rated."""

    a: RatedText
    b: RatedText

    @property
    def votes(self) -> tuple[int, int]:
        """How many people preferred a, and how many b."""
        both = list(zip(self.a.ratings, self.b.ratings, strict=True))
        return sum(x > y for x, y in both), sum(x < y for x, y in both)


def pairs(rated: Iterable[RatedText], per_batch: int, seed: int) -> list[Pair]:
    """At most `per_batch` random pairs within each batch, no pair twice."""
    batches: defaultdict[int, list[RatedText]] = defaultdict(list)
    for one in rated:
        batches[one.batch].append(one)
    drawn = []
    for batch, texts in sorted(batches.items()):
        every = list(itertools.combinations(texts, 2))
        draw = rng.generator(seed, "agreement", batch, "pairs")
        for chosen in draw.permutation(len(every))[:per_batch]:
            first, second = every[chosen]
            drawn.append(Pair(first, second) if draw.random() < 0.5 else Pair(second, first))
    return drawn


def comparison(pair: Pair) -> Comparison:
    """What most people preferred."""
    a, b = pair.votes
    return Comparison("", pair.a.text, pair.b.text, "a" if a > b else "b" if b > a else "tie")


def from_labels(labelled: Sequence[LabelledText], seed: int) -> list[Comparison]:
    """A positive text is preferred to a negative one: random pairs of the two kinds, each text at most once."""
    kinds = [[t for t in labelled if t.label == label] for label in (1, 0)]
    draw = rng.generator(seed, "agreement", 0, "labels")
    good, bad = ([kind[i].text for i in draw.permutation(len(kind))] for kind in kinds)
    return [
        Comparison("", a, b, "a") if draw.random() < 0.5 else Comparison("", b, a, "b")
        for a, b in zip(good, bad, strict=False)  # one kind may have more
    ]


def votes(some: Sequence[Pair]) -> np.ndarray:
    """(N, 2) people for the first text of each pair, and for the second."""
    return np.array([pair.votes for pair in some]).reshape(-1, 2)


def two_people(found: np.ndarray) -> float:
    """Chance that two people, drawn from those who voted on a pair, voted alike; `found` as `votes` gives it.

    Every two voters of a pair count once, so that pairs on which many people voted count more.
    """
    n = found.sum(1)
    return float((found * (found - 1)).sum() / (n * (n - 1)).sum())


def person_and_others(found: np.ndarray) -> float:
    """Chance that a person voted as most of the *other* voters of the pair did; where those are divided, a half.

    No judge can be expected to agree with single people more often: it would have to know each one's own taste. So
    this is the ceiling of a model that is held against one person.
    """
    right = 0.0
    for own, rest in (found.T, found[:, ::-1].T):
        right += float((own * ((own - 1 > rest) + 0.5 * (own - 1 == rest))).sum())
    return right / float(found.sum())


def model_and_person(logits: np.ndarray, found: np.ndarray) -> float:
    """Share of single votes on the side of a model's `logits` (N,), which are positive for the first text."""
    return float(np.where(logits > 0, found[:, 0], found[:, 1]).sum() / found.sum())


def model_and_majority(logits: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """Pairs on which the model sides with most people, of those that are no tie; both counts, for an interval."""
    clear = found[:, 0] != found[:, 1]
    right = (logits > 0) == (found[:, 0] > found[:, 1])
    return int(right[clear].sum()), int(clear.sum())
