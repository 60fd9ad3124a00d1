"""What people judged, as one kind of record: a text with a label, two texts with votes, or texts from best to worst."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.maths.preferences import pairs_of_texts
from plaudit.records import Comparison, LabelledText, Ranking, Text, transcript

_VOTES = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Judgement:
    """One response with a label, two that were compared, or more from the best to the worst, all to one prompt."""

    prompt: Text
    texts: tuple[Text, ...]
    weight: float = 1.0  # the label of one text; of two, the share of people who prefer the first; of more, 1
    margin: float = 0.0  # by how much the preferred one of two is better, in the units of the data
    people: tuple[tuple[str, float], ...] = ()  # those with a name, and the share of their votes for the first of two
    in_order: bool = True  # whether everybody saw two texts in this order


def judgements_of(part: Part) -> list[Judgement]:
    """The comparisons and rankings of a part, or its labelled texts if it has neither.

    The votes on one pair of texts become one judgement, in whatever order each person saw the two. Everybody has one
    vote on it; somebody who chose differently at different times has a vote of less than 1.

    Raises:
        DataError: there is nothing, a ranking has fewer than two responses, or a label or margin is out of range.
    """
    votes: defaultdict[tuple[Text, frozenset[Text]], list[Comparison]] = defaultdict(list)
    for comparison in part.comparisons:
        votes[comparison.prompt, frozenset((comparison.response_a, comparison.response_b))].append(comparison)
    compared = [*map(_of_votes, votes.values()), *map(_of_ranking, part.rankings)]
    found = compared or [*map(_of_label, part.labelled)]
    if not found:
        raise DataError("the data has neither labels nor comparisons nor rankings: a reward model needs one of them")
    return found


def _of_votes(comparisons: list[Comparison]) -> Judgement:
    """The comparisons of one pair as a judgement, in the order of the first."""
    first = comparisons[0]
    named: defaultdict[str, list[float]] = defaultdict(list)
    nameless: list[float] = []
    for c in comparisons:
        if not (math.isfinite(c.margin) and c.margin >= 0):
            raise DataError(f"margin {c.margin:g} of {_short(c.response_a)}: must be 0 or more")
        vote = _VOTES[c.choice] if c.response_a == first.response_a else 1 - _VOTES[c.choice]
        (named[c.annotator] if c.annotator else nameless).append(vote)
    people = tuple((name, fmean(of_one)) for name, of_one in named.items())
    weight = fmean([vote for _, vote in people] + nameless)
    margins = [c.margin for c in comparisons if c.choice != "tie"]
    in_order = all(c.response_a == first.response_a for c in comparisons)
    margin = fmean(margins) if margins else 0.0
    return Judgement(first.prompt, (first.response_a, first.response_b), weight, margin, people, in_order)


def _of_ranking(ranking: Ranking) -> Judgement:
    if len(ranking.responses) < 2:
        given = ", ".join(map(_short, ranking.responses)) or "none"
        raise DataError(
            f"a ranking has fewer than two responses ({given}): give two or more, from the best to the worst"
        )
    return Judgement(ranking.prompt, ranking.responses, people=((ranking.annotator, 1.0),) if ranking.annotator else ())


def _of_label(labelled: LabelledText) -> Judgement:
    if not 0 <= labelled.label <= 1:
        raise DataError(f"label {labelled.label:g} of {_short(labelled.text)}: must be between 0 (bad) and 1 (good)")
    return Judgement(labelled.prompt, (labelled.text,), float(labelled.label))


def _short(text: Text) -> str:
    """The beginning of a text, for a message."""
    return repr(transcript(text)[:40])


def votes_of_people(judgements: Sequence[Judgement], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The votes on each pair of texts on which two people or more have voted, and what a model says about it.

    Args:
        scores: (M,) of all texts of the judgements.

    Returns:
        (P, 2) numbers of votes for the first and the second text; (P,) score of the first minus score of the second.
    """
    votes: defaultdict[tuple[Text, Text, Text], list[bool]] = defaultdict(list)
    gaps: dict[tuple[Text, Text, Text], float] = {}
    texts = [text for judgement in judgements for text in judgement.texts]
    for (i, j), of in zip(*pairs_of_texts([len(judgement.texts) for judgement in judgements]), strict=True):
        prompt, people = judgements[of].prompt, judgements[of].people
        turned = (prompt, texts[j], texts[i]) in gaps  # somebody else has ranked them in the other order
        key = (prompt, texts[j], texts[i]) if turned else (prompt, texts[i], texts[j])
        gaps.setdefault(key, scores[i] - scores[j])
        votes[key] += [(share > 0.5) != turned for _, share in people if share != 0.5]
    several = [key for key, cast in votes.items() if len(cast) > 1]
    counts = [(sum(votes[key]), len(votes[key]) - sum(votes[key])) for key in several]
    return np.array(counts, dtype=int).reshape(-1, 2), np.array([gaps[key] for key in several])
