"""Rows of the database as plain values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

import numpy as np

from plaudit.errors import FeedbackError
from plaudit.feedback.entries import (
    Annotator,
    Answer,
    Assignment,
    Completion,
    Event,
    Generator,
    Label,
    Outcome,
    text_of,
)

_MANY = 500  # parameters of one query; SQLite takes 999 at least


def by_id(connection: sqlite3.Connection, table: str, ids: Iterable[int | None]) -> Iterator[sqlite3.Row]:
    """The rows of a table that have these ids."""
    wanted = sorted({one for one in ids if one is not None})
    for start in range(0, len(wanted), _MANY):
        some = wanted[start : start + _MANY]
        yield from connection.execute(f"SELECT * FROM {table} WHERE id IN ({', '.join('?' * len(some))})", some)


def assigned(connection: sqlite3.Connection, assignment_id: int, annotator_id: int) -> Assignment:
    """What an annotator was asked; see `Store.assignment`."""
    row = connection.execute(
        "SELECT assignment.*, purpose, content, a.text AS a, b.text AS b FROM assignment JOIN item ON item.id = item_id"
        " JOIN prompt ON prompt.id = item.prompt_id JOIN completion a ON a.id = item.a"
        " JOIN completion b ON b.id = item.b WHERE assignment.id = ? AND annotator_id = ?",
        (assignment_id, annotator_id),
    ).fetchone()
    if row is None:
        raise FeedbackError(f"assignment {assignment_id}: you were not asked this")
    left, right = (row["a"], row["b"]) if row["left"] == "a" else (row["b"], row["a"])
    return Assignment(
        id=row["id"],
        annotator=row["annotator_id"],
        item=row["item_id"],
        purpose=row["purpose"],
        repeat=bool(row["repeat"]),
        prompt=text_of(row["content"]),
        left=left,
        right=right,
        answer=answer_of(row["outcome"], row["left"]),
    )


def answer_of(outcome: Outcome | None, left: str) -> Answer | None:
    """An outcome as the annotator saw it."""
    if outcome in ("a", "b"):
        return "left" if outcome == left else "right"
    return outcome  # type: ignore[return-value]


def label_of(row: sqlite3.Row) -> Label:
    """A label from a row of the view."""
    return Label(**{**dict(row), "repeat": bool(row["repeat"])})


def event_of(row: sqlite3.Row) -> Event:
    """An event from its row."""
    names = ("id", "uuid", "assignment_id", "kind", "outcome", "strength", "active_ms", "wall_ms", "at")
    return Event(*(row[name] for name in names))


def annotator_of(row: sqlite3.Row) -> Annotator:
    """An annotator from a row."""
    return Annotator(row["id"], row["name"], row["role"], row["joined"], row["seen"])


def generator_of(row: sqlite3.Row) -> Generator:
    """A generator from its row."""
    return Generator(row["id"], row["name"], row["model_hash"], row["stage"], json.loads(row["details"]))


def completion_of(row: sqlite3.Row) -> Completion:
    """A completion from its row."""
    ids, sampling, blob = row["token_ids"], row["sampling"], row["features"]
    return Completion(
        id=row["id"],
        prompt=row["prompt_id"],
        text=row["text"],
        generator=row["generator_id"],
        token_ids=None if ids is None else tuple(json.loads(ids)),
        sampling=None if sampling is None else json.loads(sampling),
        seed=row["seed"],
        features=None if blob is None else np.frombuffer(blob, dtype="<f4"),
    )
