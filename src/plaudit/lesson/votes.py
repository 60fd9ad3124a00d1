"""Votes for a notebook: of simulated people, and of the reader."""

import uuid
from collections.abc import Sequence
from typing import Any

from plaudit import rng
from plaudit.errors import FeedbackError
from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan
from plaudit.feedback.entries import Assignment
from plaudit.feedback.people import Person, choose
from plaudit.feedback.store import Store

KEYS = {"L": "left", "R": "right", "=": "tie"}


def vote(store: Store, people: Sequence[Person], plan: Plan, seed: int) -> None:
    """Let simulated people answer in turn, on the sides that the store gives them, until nobody is asked any more."""
    with store.transaction():
        present = [
            (person, store.add_annotator(person.name, "simulated", uuid.uuid4().hex).id, random)
            for place, person in enumerate(people)
            for random in [rng.generator(seed, "lesson votes", place, "answers")]
        ]
        while present:
            for one in list(present):
                person, annotator, random = one
                if (asked := assignment.next(store, annotator, plan)) is None:
                    present.remove(one)
                else:
                    chosen = choose(person, str(asked.prompt), asked.left, asked.right, random)
                    _record(store, asked.id, annotator, chosen.partition("-")[0], person.seconds)


def ask(store: Store, name: str, plan: Plan, number: int) -> list[Assignment]:
    """The next pairs for an annotator of this name, all at once.

    Raises:
        FeedbackError: there are fewer.
    """
    known = {one.name: one.id for one in store.annotators()}
    annotator = known.get(name) or store.add_annotator(name, "person", uuid.uuid4().hex).id
    asked: list[Assignment] = []
    while len(asked) < number:
        found = assignment.next(store, annotator, plan, beside=[one.id for one in asked])
        if found is None:
            raise FeedbackError(f"there are only {len(asked)} pairs to ask about, not {number}")
        asked.append(found)
    return asked


def answer(store: Store, asked: Sequence[Assignment], votes: str | None, other: Person, seed: int) -> str:
    """Record the answers to pairs, one letter each: L left, R right, = tie. Returns these letters.

    Args:
        votes: of the reader, such as "LRR=L"; None: the person `other` answers.

    Raises:
        FeedbackError: a letter is another one, or there are more or fewer than pairs.
    """
    if votes is None:
        draw = rng.generator(seed, "lesson votes", 0, "reader")
        sides = [choose(other, str(one.prompt), one.left, one.right, draw).partition("-")[0] for one in asked]
    else:
        given = "".join(votes.split()).upper()
        if wrong := set(given) - KEYS.keys():
            raise FeedbackError(f"{min(wrong)!r} is no vote: write L, R or = for each pair")
        if len(given) != len(asked):
            raise FeedbackError(f"{len(given)} votes for {len(asked)} pairs: write one letter for each pair")
        sides = [KEYS[letter] for letter in given]
    with store.transaction():
        for one, side in zip(asked, sides, strict=True):
            _record(store, one.id, one.annotator, side, other.seconds)
    return "".join(letter for side in sides for letter, name in KEYS.items() if name == side)


def _record(store: Store, asked: int, annotator: int, answer: str, seconds: float) -> None:
    side: Any = answer if answer in ("left", "right") else None
    kind, spent = "choose" if side else answer, round(1000 * seconds)
    store.record(uuid.uuid4().hex, asked, annotator, kind, side, active_ms=spent, wall_ms=spent)
