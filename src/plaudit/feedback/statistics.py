"""What the votes say about the people and the models: agreement, consistency, win rates, pace.

Every figure comes with its numerator and denominator, or with a 95% interval. All functions take labels as the store
has them: the answers that are valid now. Skipped pairs count nowhere.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plaudit import rng
from plaudit.errors import FeedbackError
from plaudit.feedback.store import Completion, Label
from plaudit.maths.intervals import wilson

_OUTCOMES = ("a", "b", "tie", "both_bad")
_DRAWS = 2000  # of a bootstrap
_HALF_WIDTH = 0.05  # plus or minus five points
_PSEUDO = 2  # wins, and losses, that are added as Agresti and Coull 1998 do: z^2 / 2 of each


@dataclass(frozen=True)
class Share:
    """A proportion: `hits` of `of`; a half is a rule that cannot decide."""

    hits: float
    of: int

    @property
    def value(self) -> float | None:
        """None without a trial."""
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95%, by Wilson's formula: for trials that do not depend on each other."""
        return wilson(self.hits, self.of) if self.of else None


@dataclass(frozen=True)
class Agreement:
    """How often two votes on one pair agree, and Krippendorff's alpha: 1 is agreement, 0 is chance."""

    same: Share  # pairs of votes
    alpha: float | None  # None where nothing could be disagreed about
    interval: tuple[float, float] | None  # bootstrap over pairs of responses
    items: int  # with two votes or more
    people: int


@dataclass(frozen=True)
class WinRate:
    """How often one model's response is chosen over the other's."""

    wins: int
    ties: int
    losses: int
    prompts: int
    decisive: Share  # without ties
    rate: float | None  # a tie is half a win
    interval: tuple[float, float] | None  # bootstrap over prompts
    more_votes: int | None  # for an interval of plus or minus five points


@dataclass(frozen=True)
class Pace:
    """Seconds a vote, without pauses: the median and the quartiles."""

    votes: int
    median: float
    quartiles: tuple[float, float]


def answered(labels: Iterable[Label]) -> list[Label]:
    """Without those that were skipped."""
    return [label for label in labels if label.outcome != "skip"]


def decisive(labels: Iterable[Label]) -> list[Label]:
    """Those that chose a response."""
    return [label for label in labels if label.outcome in ("a", "b")]


def always_left(labels: Iterable[Label]) -> Share:
    """How often the response on the left was chosen, which is how often the rule "always left" is right."""
    chosen = decisive(labels)
    return Share(sum(label.outcome == label.left for label in chosen), len(chosen))


def always_longer(labels: Iterable[Label], completions: Mapping[int, Completion]) -> Share:
    """How often the rule "always the longer one" is right; it is half right about two of equal length."""
    chosen = decisive(labels)
    gaps = [completions[label.a].length - completions[label.b].length for label in chosen]
    hits = (
        0.5 if gap == 0 else float((gap > 0) == (label.outcome == "a")) for gap, label in zip(gaps, chosen, strict=True)
    )
    return Share(sum(hits), len(chosen))


def next_choice(labels: Sequence[Label], predicted: Sequence[float]) -> Share:
    """How often the model was right about a person's next choice: `Learner.predicted` of all these labels.

    Pairs that come again are left out, because the model has learned the answer.
    """
    both = zip(labels, predicted, strict=True)
    pairs = [(label, p) for label, p in both if label.outcome in ("a", "b") and not label.repeat]
    hits = (0.5 if p == 0.5 else float((p > 0.5) == (label.outcome == "a")) for label, p in pairs)
    return Share(sum(hits), len(pairs))


def gold(labels: Iterable[Label]) -> Share:
    """How often the known answer of a gold pair was given."""
    known = [label for label in answered(labels) if label.gold is not None and not label.repeat]
    return Share(sum(label.outcome == label.gold for label in known), len(known))


def self_consistency(labels: Iterable[Label]) -> Share:
    """How often a person gave the same answer when a pair came again with sides swapped."""
    given: dict[tuple[int, int], dict[bool, str]] = defaultdict(dict)
    for label in answered(labels):
        given[label.annotator, label.item][label.repeat] = label.outcome
    both = [answers for answers in given.values() if len(answers) == 2]
    return Share(sum(answers[False] == answers[True] for answers in both), len(both))


def two_people(labels: Iterable[Label], one: int, other: int) -> Share:
    """On how many of the pairs that both were asked two annotators gave the same answer."""
    first = {(label.annotator, label.item): label.outcome for label in answered(labels) if not label.repeat}
    shared = {item for who, item in first if who == one} & {item for who, item in first if who == other}
    return Share(sum(first[one, item] == first[other, item] for item in shared), len(shared))


def votes(labels: Iterable[Label]) -> tuple[list[int], np.ndarray]:
    """The items, and (N, 4) how many people answered a, b, tie and both bad about each."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for label in answered(labels):
        if not label.repeat:
            counts[label.item][label.outcome] += 1
    rows = [[of_item[outcome] for outcome in _OUTCOMES] for of_item in counts.values()]
    return list(counts), np.array(rows, dtype=float).reshape(-1, len(_OUTCOMES))


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Nominal alpha from (N, C) counts of each category in each unit; gaps are units with fewer votes.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C.
    """
    return _alpha(counts, np.ones((1, len(counts))))[0]


def _alpha(counts: np.ndarray, times: np.ndarray) -> list[float | None]:
    """Alpha when each unit is taken `times` (B, N) times. None: all votes are of one category, or there are none."""
    n = counts.sum(1)
    pairable = n >= 2
    counts, n, times = counts[pairable], n[pairable], times[:, pairable]
    differing = (n**2 - (counts**2).sum(1)) / (n - 1)
    total, of_category = times @ n, times @ counts
    observed = times @ differing  # times n
    expected = (total**2 - (of_category**2).sum(1)) / np.maximum(total - 1, 1)
    return [1 - o / e if e > 0 else None for o, e in zip(observed.tolist(), expected.tolist(), strict=True)]


def agreement(labels: Sequence[Label]) -> Agreement:
    """Agreement of all annotators; a pair that comes again to the same person counts once."""
    _, counts = votes(labels)
    shared = counts[counts.sum(1) >= 2]
    n = shared.sum(1)
    same = Share(float((shared * (shared - 1)).sum()) / 2, int((n * (n - 1)).sum()) // 2)
    drawn = [alpha for alpha in _alpha(shared, _draws(len(shared), "agreement")) if alpha is not None]
    interval = _ends(np.array(drawn)) if len(drawn) > _DRAWS / 2 else None
    people = len({label.annotator for label in answered(labels)})
    return Agreement(same, krippendorff_alpha(shared), interval, len(shared), people)


def disputed(labels: Sequence[Label], most: int = 10) -> list[tuple[int, dict[str, int]]]:
    """The items on which people disagree most, each with its counts: the largest number of pairs of different votes."""
    items, counts = votes(labels)
    differing = (counts.sum(1) ** 2 - (counts**2).sum(1)) / 2
    order = [i for i in np.argsort(-differing, kind="stable")[:most] if differing[i]]
    return [(items[i], {o: int(c) for o, c in zip(_OUTCOMES, counts[i], strict=True) if c}) for i in order]


def pace(labels: Iterable[Label]) -> Pace | None:
    """How long a vote takes."""
    seconds = [label.active_ms / 1000 for label in answered(labels)]
    if not seconds:
        return None
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return Pace(len(seconds), median, (low, high))


def win_rate(labels: Iterable[Label], completions: Mapping[int, Completion], one: int, other: int) -> WinRate:
    """Of generator `one` against generator `other`, over the pairs in which both wrote a response.

    The interval of `rate` is a bootstrap over prompts, because votes on one prompt go together. Two wins and two
    losses, each of a prompt of its own, are added as in Agresti and Coull: three wins of three do not give a point.
    """
    if one == other:
        raise FeedbackError("a win rate needs two models: one was compared with itself")
    points: dict[int, list[float]] = defaultdict(list)
    for label in answered(labels):
        writers = (completions[label.a].generator, completions[label.b].generator)
        if label.repeat or set(writers) != {one, other}:
            continue
        winner = {"a": writers[0], "b": writers[1]}.get(label.outcome)
        points[label.prompt].append(0.5 if winner is None else float(winner == one))
    every = [point for of_prompt in points.values() for point in of_prompt]
    wins, ties, losses = (every.count(value) for value in (1.0, 0.5, 0.0))
    counted = (wins, ties, losses, len(points), Share(wins, wins + losses))
    if not every:
        return WinRate(*counted, None, None, None)
    usual = len(every) / len(points)  # votes a prompt
    won = np.array([sum(of_prompt) for of_prompt in points.values()] + [usual, 0.0] * _PSEUDO)
    cast = np.array([len(of_prompt) for of_prompt in points.values()] + [usual, usual] * _PSEUDO)
    times = _draws(len(won), "win rate")
    low, high = _ends((times @ won) / (times @ cast))
    rate = sum(every) / len(every)
    interval = (min(low, rate), max(high, rate))
    # The half width falls with the square root of the number of prompts, the added ones included.
    needed = (len(points) + 2 * _PSEUDO) * ((high - low) / 2 / _HALF_WIDTH) ** 2 - 2 * _PSEUDO
    return WinRate(*counted, rate, interval, max(0, math.ceil((needed - len(points)) * usual)))


def _draws(n: int, purpose: str) -> np.ndarray:
    """(B, n) how often each of n units is drawn in each sample of a bootstrap."""
    if n == 0:
        return np.zeros((_DRAWS, 0))
    return rng.generator(0, "statistics", n, purpose).multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(float)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return low, high
