"""Which pair an annotator gets next, and on which side each response stands."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from plaudit.feedback.store import Assignment, Purpose, Store


@dataclass(frozen=True)
class Plan:
    """How pairs are given to annotators."""

    overlap: int = 1  # votes a pair
    votes: int | None = None  # pairs that each annotator is asked, without practice, gold and repeats; None: all
    repeat_share: float = 0.1  # of the pairs that come again with sides swapped
    practice: int = 2  # practice pairs, which come first
    gold_share: float = 0.1  # of the pairs that are gold pairs, as far as there are any; 1: they all come first
    release_after: float = 600.0  # seconds without an answer after which a pair goes to somebody else
    strategy: Literal["random", "uncertain"] = "random"
    random_share: float = 0.25  # of the pairs that are random with the strategy "uncertain"
    purpose: Purpose = "train"
    round: int | None = None  # ask about pairs of this round only
    seed: int = 0


def next(
    store: Store,
    annotator_id: int,
    plan: Plan,
    now: float | None = None,
    priority: Callable[[int], float] | None = None,
    beside: Collection[int] = (),
) -> Assignment | None:
    """What to ask an annotator next; None when there is nothing left for him or her.

    An assignment without an answer is given again, so a page can be loaded twice.

    Args:
        store: the project.
        annotator_id: whom to ask.
        plan: how pairs are given.
        now: seconds since 1970.
        priority: of an item, by its id; the highest comes first. For the strategy "uncertain".
        beside: assignments that the page has already, when it fetches the next one in advance.
    """
    raise NotImplementedError
