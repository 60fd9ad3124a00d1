"""Comparisons from ratings, and how often people and models agree on them.

Two texts that the same people rated form a pair. Each person votes for the text that he or she rated higher; equal
ratings give no vote. The text with more votes is the pair's choice; equal numbers of votes are a tie.
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
        """Numbers of votes for a and for b."""
        a, b = np.array([self.a.ratings, self.b.ratings])
        return int((a > b).sum()), int((a < b).sum())


def pairs(rated: Iterable[RatedText], per_batch: int, seed: int) -> list[Pair]:
    """At most `per_batch` distinct random pairs from each batch."""
    batches: defaultdict[int, list[RatedText]] = defaultdict(list)
    for text in rated:
        batches[text.batch].append(text)
    drawn = []
    for batch, texts in sorted(batches.items()):
        candidates = list(itertools.combinations(texts, 2))
        random = rng.generator(seed, "agreement", batch, "pairs")
        for i in random.permutation(len(candidates))[:per_batch]:
            first, second = candidates[i]
            drawn.append(Pair(first, second) if random.random() < 0.5 else Pair(second, first))
    return drawn


def comparison(pair: Pair) -> Comparison:
    """The pair as a comparison, with the choice of the majority."""
    a, b = pair.votes
    return Comparison("", pair.a.text, pair.b.text, "a" if a > b else "b" if b > a else "tie")


def from_labels(labelled: Sequence[LabelledText], seed: int) -> list[Comparison]:
    """Random pairs of a positive (preferred) and a negative text; each text is used at most once."""
    random = rng.generator(seed, "agreement", 0, "labels")
    by_label = ([text.text for text in labelled if text.label == label] for label in (1, 0))
    good, bad = ([texts[i] for i in random.permutation(len(texts))] for texts in by_label)
    return [
        Comparison("", a, b, "a") if random.random() < 0.5 else Comparison("", b, a, "b")
        for a, b in zip(good, bad, strict=False)  # zip truncates to the shorter list
    ]


def votes(pairs: Sequence[Pair]) -> np.ndarray:
    """(N, 2) numbers of votes for texts a and b of each pair."""
    return np.array([pair.votes for pair in pairs]).reshape(-1, 2)


def two_people(votes: np.ndarray) -> float:
    """Probability that two random voters of a pair agree, from (N, 2) votes.

    Each pair of texts is weighted by its number of pairs of voters.
    """
    n = votes.sum(1)
    return float((votes * (votes - 1)).sum() / (n * (n - 1)).sum())


def person_and_others(votes: np.ndarray) -> float:
    """Probability that a voter agrees with the majority of the pair's *other* voters, from (N, 2) votes.

    A tie among the other voters counts as one half. This is the ceiling for a model's agreement with single
    votes: a model does not know each person's taste.
    """
    others, opposed = votes - 1, votes[:, ::-1]  # from the side of each voter
    return float((votes * ((others > opposed) + 0.5 * (others == opposed))).sum() / votes.sum())


def model_and_person(logits: np.ndarray, votes: np.ndarray) -> float:
    """Share of the (N, 2) votes that agree with a model; its (N,) `logits` are positive where it prefers a."""
    return float(np.where(logits > 0, votes[:, 0], votes[:, 1]).sum() / votes.sum())


def model_and_majority(logits: np.ndarray, votes: np.ndarray) -> tuple[int, int]:
    """(number of pairs on which a model agrees with the majority, number of pairs that are not a tie)."""
    clear = votes[:, 0] != votes[:, 1]
    agreed = (logits > 0) == (votes[:, 0] > votes[:, 1])
    return int(agreed[clear].sum()), int(clear.sum())
