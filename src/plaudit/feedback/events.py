"""What an annotator does, as events: what is possible when, and what it means."""

from __future__ import annotations

import sqlite3
from typing import get_args

from plaudit.errors import FeedbackError
from plaudit.feedback.entries import Event, Kind, Outcome, Side
from plaudit.feedback.rows import event_of

ANSWERS = ("choose", "tie", "both_bad", "skip")


def record(
    connection: sqlite3.Connection, uuid: str, assignment_id: int | None, annotator_id: int, kind: str,
    choice_side: Side | None, strength: int, active_ms: int, wall_ms: int, revised: str, now: float,
) -> Event:  # fmt: skip
    """Write an event in the transaction of `connection`; see `Store.record`."""
    if kind not in get_args(Kind) or revised not in ANSWERS:
        raise FeedbackError(f"{kind!r:.40}: must be one of {', '.join(get_args(Kind))}")
    if not uuid or strength not in (1, 2) or min(active_ms, wall_ms) < 0:
        raise FeedbackError("a vote needs a uuid, a strength of 1 or 2, and times of 0 or more")
    answer = revised if kind == "revise" else kind
    strength = strength if answer == "choose" else 1
    if (answer == "choose") != (choice_side in ("left", "right")):
        raise FeedbackError("a choice needs a side, left or right, and nothing else has one")
    before = connection.execute(
        "SELECT event.*, annotator_id, \"left\" FROM event JOIN assignment ON assignment.id = assignment_id"
        " WHERE uuid = ?", (uuid,),
    ).fetchone()  # fmt: skip
    if before:
        outcome = _outcome(answer, choice_side, before["left"])
        same = [before[name] for name in ("annotator_id", "kind", "outcome", "strength")] == [
            annotator_id,
            kind,
            outcome,
            strength,
        ]
        if not same or assignment_id not in (None, before["assignment_id"]):
            raise FeedbackError("this form has been sent before with another answer: change answers in the history")
        return event_of(before)
    asked = _asked(connection, assignment_id, annotator_id, kind)
    outcome = _outcome(answer, choice_side, asked["left"])
    values = (uuid, asked["id"], kind, outcome, strength, active_ms, wall_ms, now)
    cursor = connection.execute(
        "INSERT INTO event (uuid, assignment_id, kind, outcome, strength, active_ms, wall_ms, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )
    if kind == "undo":
        connection.execute("UPDATE assignment SET given = ?, released = NULL WHERE id = ?", (now, asked["id"]))
    connection.execute("UPDATE annotator SET seen = ? WHERE id = ?", (now, annotator_id))
    return event_of(connection.execute("SELECT * FROM event WHERE id = ?", (cursor.lastrowid,)).fetchone())


def _asked(connection: sqlite3.Connection, assignment_id: int | None, annotator_id: int, kind: str) -> sqlite3.Row:
    """The assignment that an event is about, in a state that allows it."""
    last = "SELECT * FROM assignment WHERE annotator_id = ? AND event_id IS NOT NULL ORDER BY event_id DESC LIMIT 1"
    if kind == "undo":
        asked = connection.execute(last, (annotator_id,)).fetchone()
        if asked is None:
            raise FeedbackError("there is no answer to take back")
        if assignment_id not in (None, asked["id"]):
            raise FeedbackError("only the last answer can be taken back: change earlier ones in the history")
    else:
        asked = connection.execute(
            "SELECT * FROM assignment WHERE id = ? AND annotator_id = ?", (assignment_id, annotator_id)
        ).fetchone()
        if asked is None:
            raise FeedbackError(f"assignment {assignment_id}: you were not asked this")
    if kind in ANSWERS and asked["event_id"] is not None:
        raise FeedbackError("this pair has an answer already: change it in the history")
    if kind in ("revise", "reveal") and asked["event_id"] is None:
        raise FeedbackError("this pair has no answer yet")
    if kind in ("revise", "undo") and is_revealed(connection, asked["id"]):
        raise FeedbackError("this answer is final, because you have seen what wrote the two responses")
    return asked


def is_revealed(connection: sqlite3.Connection, assignment_id: int) -> bool:
    """Whether the annotator has been shown what wrote the responses."""
    query = "SELECT 1 FROM event WHERE assignment_id = ? AND kind = 'reveal'"
    return connection.execute(query, (assignment_id,)).fetchone() is not None


def _outcome(answer: str, side: Side | None, left: str) -> Outcome | None:
    """What an answer says about the responses a and b."""
    if answer == "choose":
        return "a" if (side == "left") == (left == "a") else "b"
    return answer if answer in ("tie", "both_bad", "skip") else None  # type: ignore[return-value]
