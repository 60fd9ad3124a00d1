"""Which pair an annotator gets next, and on which side each response stands.

An annotator with a quota has a block of pairs of his or her own: laid end to end, the blocks cover all pairs `overlap`
times, so every pair gets its votes in whatever order people work. Pairs of people who have left come next.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from plaudit import rng
from plaudit.feedback.rows import assigned
from plaudit.feedback.store import Assignment, Purpose, Response, Store

_APART = 5  # other pairs between a pair and its repetition, at least
_STAGE = "assignment"  # of the random numbers
_MAINS = """SELECT annotator_id, item_id, seen FROM assignment
    JOIN item ON item.id = item_id JOIN annotator ON annotator.id = annotator_id
    WHERE repeat = 0 AND purpose = ? AND round = ifnull(?, round)"""

_BEGINNINGS = """SELECT id AS annotator_id, (
        SELECT assignment.id FROM assignment INDEXED BY assignment_by_annotator JOIN item ON item.id = item_id
        WHERE annotator_id = annotator.id AND repeat = 0 AND purpose = ? AND round = ifnull(?, round)
        ORDER BY assignment.id LIMIT 1
    ) AS began FROM annotator WHERE began IS NOT NULL ORDER BY began"""


@dataclass(frozen=True)
class Plan:
    """How pairs are given to annotators."""

    overlap: int = 1  # votes a pair; votes that come after a pair was released can make it more
    votes: int | None = None  # pairs for each annotator, without practice, gold, repetitions and skips; None: all
    repeat_share: float = 0.1  # of the pairs that come again with sides swapped
    practice: int = 2  # practice pairs, which come first
    gold_share: float = 0.1  # of the pairs that are gold pairs, as far as there are any; 1: they all come first
    release_after: float = 600.0  # seconds without an answer after which a pair goes to somebody else
    strategy: Literal["random", "uncertain"] = "random"
    random_share: float = 0.25  # of the pairs that are random with the strategy "uncertain"
    purpose: Purpose = "train"
    round: int | None = None  # ask about pairs of this round only
    newest: bool = False  # ask about the pairs of the newest round first
    seed: int = 0


@dataclass(frozen=True)
class Standing:
    """How far an annotator is."""

    answered: int  # pairs with a vote, without practice, gold and repetitions
    left: int  # pairs that can be asked now
    answers: int = field(default=0, compare=False)  # of all kinds, practice, repetitions and skips included


class _Desk:
    """What the choice of a pair for one annotator depends on."""

    def __init__(self, connection: sqlite3.Connection, annotator: int, plan: Plan) -> None:
        self.connection, self.annotator, self.plan = connection, annotator, plan
        self.items: dict[str, list[int]] = {"practice": [], "gold": [], plan.purpose: []}
        self.rounds: dict[int, int] = {}
        self.votes = Counter[int]()  # by item, given or expected
        query = "SELECT id, purpose, round, votes FROM item JOIN tally ON item_id = id ORDER BY id"
        for item, purpose, round_, votes in connection.execute(query):
            self.rounds[item], self.votes[item] = round_, votes
            if purpose in self.items and (plan.round in (None, round_) or purpose != plan.purpose):
                self.items[purpose].append(item)
        self.purposes = {item: purpose for purpose, items in self.items.items() for item in items}
        query = "SELECT * FROM assignment WHERE annotator_id = ? ORDER BY id"
        self.asked = connection.execute(query, (annotator,)).fetchall()
        self.seen = {row["item_id"] for row in self.asked}
        self.mains = [
            row for row in self.asked if not row["repeat"] and self.purposes.get(row["item_id"]) == plan.purpose
        ]

    def is_needed(self, item: int) -> bool:
        """Whether a pair still lacks votes."""
        return self.purposes[item] != self.plan.purpose or self.votes[item] < self.plan.overlap

    @property
    def has_quota(self) -> bool:
        """Whether the annotator may be asked about more pairs."""
        taken = sum(row["outcome"] != "skip" and not (row["outcome"] is None and row["released"]) for row in self.mains)
        return self.plan.votes is None or taken < self.plan.votes

    def candidates(self) -> list[int]:
        """The pairs that can be asked now."""
        found = [item for item in self.items[self.plan.purpose] if item not in self.seen and self.is_needed(item)]
        newest = max((self.rounds[item] for item in found), default=0)
        return [item for item in found if self.rounds[item] == newest] if self.plan.newest else found

    def random(self, purpose: str) -> np.random.Generator:
        """Random numbers for this annotator's next pair."""
        return rng.generator(self.plan.seed, _STAGE, self.annotator, purpose, len(self.asked))

    @cached_property
    def _ranks(self) -> dict[int, int]:
        """The annotators by when they began with these pairs, this one included."""
        rows = self.connection.execute(_BEGINNINGS, (self.plan.purpose, self.plan.round))
        began = [row["annotator_id"] for row in rows]
        return {annotator: rank for rank, annotator in enumerate(dict.fromkeys([*began, self.annotator]))}

    @cached_property
    def _order(self) -> list[int]:
        items = self.items[self.plan.purpose]
        return [items[place] for place in rng.permutation(len(items), self.plan.seed, _STAGE, 0)]

    def block(self, annotator: int) -> list[int]:
        """The pairs of an annotator's own, from where he or she begins; none once all pairs are shared out."""
        n, rank = len(self._order), self._ranks[annotator]
        length = n if self.plan.votes is None else min(self.plan.votes, n)
        start = rank * length
        if start >= n * self.plan.overlap:
            return []
        turn = start // n * length // self.plan.overlap  # those who share a block begin at other places of it
        return [self._order[(start + (turn + i) % length) % n] for i in range(length)]

    def orphans(self, candidates: list[int], now: float) -> list[int]:
        """The candidates that lack votes even if all who are present do what is left of their blocks."""
        rows = self.connection.execute(_MAINS, (self.plan.purpose, self.plan.round))
        theirs: defaultdict[int, set[int]] = defaultdict(set)
        present = set()
        for row in rows:
            theirs[row["annotator_id"]].add(row["item_id"])
            if now - row["seen"] <= self.plan.release_after:
                present.add(row["annotator_id"])
        expected = self.votes.copy()
        for annotator in present - {self.annotator}:
            expected.update(set(self.block(annotator)) - theirs[annotator])
        return [item for item in candidates if expected[item] < self.plan.overlap]


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
    at = time.time() if now is None else now
    with store.transaction() as connection:
        connection.execute(
            "UPDATE assignment SET released = ? WHERE outcome IS NULL AND released IS NULL AND given < ?",
            (at, at - plan.release_after),
        )
        connection.execute("UPDATE annotator SET seen = ? WHERE id = ?", (at, annotator_id))
        desk = _Desk(connection, annotator_id, plan)
        found = _unanswered(desk, beside) or _new(desk, at, priority)
        if found is None:
            return None
        connection.execute("UPDATE assignment SET given = ?, released = NULL WHERE id = ?", (at, found))
        return assigned(connection, found, annotator_id)


def standing(store: Store, annotator_id: int, plan: Plan) -> Standing:
    """How far an annotator is with the pairs of a plan."""
    with store.database.reading() as connection:
        desk = _Desk(connection, annotator_id, plan)
    answered = sum(row["outcome"] not in (None, "skip") for row in desk.mains)
    unanswered = sum(
        row["outcome"] is None and (row["released"] is None or desk.is_needed(row["item_id"])) for row in desk.mains
    )
    left = unanswered + len(desk.candidates())
    answers = sum(row["outcome"] is not None for row in desk.asked)
    return Standing(answered, left if plan.votes is None else min(left, max(0, plan.votes - answered)), answers)


def _unanswered(desk: _Desk, beside: Collection[int]) -> int | None:
    """The annotator's first assignment without an answer. One that was released is taken up if it lacks votes."""
    for row in desk.asked:
        is_open = row["outcome"] is None and row["id"] not in beside and row["item_id"] in desk.purposes
        if is_open and (row["released"] is None or row["repeat"] or desk.is_needed(row["item_id"])):
            return int(row["id"])
    return None


def _new(desk: _Desk, now: float, priority: Callable[[int], float] | None) -> int | None:
    """A new assignment."""
    asked = Counter(desk.purposes.get(row["item_id"], "") for row in desk.asked if not row["repeat"])
    practice, gold = ([item for item in desk.items[name] if item not in desk.seen] for name in ("practice", "gold"))
    if practice and asked["practice"] < desk.plan.practice:
        return _give(desk, practice[0], repeat=False, now=now)
    if gold and asked["gold"] + 1 <= desk.plan.gold_share * (asked["gold"] + len(desk.mains) + 1):
        return _give(desk, int(desk.random("gold").choice(gold)), repeat=False, now=now)
    if (again := _again(desk)) is not None:
        return _give(desk, again, repeat=True, now=now)
    candidates = desk.candidates() if desk.has_quota else []
    return _give(desk, _choose(desk, candidates, now, priority), repeat=False, now=now) if candidates else None


def _choose(desk: _Desk, candidates: list[int], now: float, priority: Callable[[int], float] | None) -> int:
    plan = desk.plan
    if plan.strategy == "uncertain" and priority and desk.random("strategy").random() >= plan.random_share:
        return max(candidates, key=priority)
    preferred, order = candidates, desk.random("order").permutation(len(candidates))
    if plan.votes is not None:
        eligible = set(candidates)
        own = [item for item in desk.block(desk.annotator) if item in eligible]
        if own:
            return min(own, key=desk.votes.__getitem__)
        preferred = desk.orphans(candidates, now) or candidates
    places = dict(zip(candidates, order, strict=True))
    return min(preferred, key=lambda item: (desk.votes[item], places[item]))


def _again(desk: _Desk) -> int | None:
    """A pair to ask again, when one is due that lies far enough back and whose swapped sides keep the balance."""
    voted = [row for row in desk.mains if row["outcome"] not in (None, "skip")]
    repeated = {row["item_id"] for row in desk.asked if row["repeat"]}
    mine = {row["item_id"] for row in desk.mains}
    if len(repeated & mine) >= int(desk.plan.repeat_share * len(voted)):
        return None
    old = {row["id"] for row in desk.asked[:-_APART]}
    side = _side(desk, repeat=True)
    fitting = [
        row["item_id"]
        for row in voted
        if row["id"] in old and row["item_id"] not in repeated and side in (None, _other(row["left"]))
    ]
    return int(desk.random("again").choice(fitting)) if fitting else None


def _give(desk: _Desk, item: int, repeat: bool, now: float) -> int:
    """Write down a new assignment and its sides; its id."""
    if repeat:
        left = _other(*(row["left"] for row in desk.mains if row["item_id"] == item))
    else:
        left = _side(desk, repeat=False) or ("a" if desk.random("side").random() < 0.5 else "b")
    cursor = desk.connection.execute(
        'INSERT INTO assignment (annotator_id, item_id, repeat, "left", given) VALUES (?, ?, ?, ?, ?)',
        (desk.annotator, item, int(repeat), left, now),
    )
    return int(cursor.lastrowid or 0)


def _side(desk: _Desk, repeat: bool) -> Response | None:
    """The response to show on the left such that each is there equally often, to a difference of one; None: any.

    This holds for the first showings, for the repetitions, and for both together.
    """
    same = [row["left"] for row in desk.asked if bool(row["repeat"]) == repeat]
    for lefts in (same, [row["left"] for row in desk.asked]):
        surplus = lefts.count("a") - lefts.count("b")
        if surplus:
            return "b" if surplus > 0 else "a"
    return None


def _other(response: str) -> Response:
    return "b" if response == "a" else "a"
