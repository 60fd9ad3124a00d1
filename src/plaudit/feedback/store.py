"""The data of one labelling project: pairs of responses, annotators, what each was asked, and what they answered.

Everything is in one folder: `feedback.db` and `backups/`. What is asked and answered is never changed or removed: an
answer is an event, and so are taking it back and revising it. Functions that write return when it is on the disk.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.errors import FeedbackError
from plaudit.feedback import events
from plaudit.feedback.database import Database
from plaudit.feedback.entries import (
    Annotator,
    Assignment,
    Completion,
    Event,
    Generator,
    Item,
    Label,
    Progress,
    Purpose,
    Response,
    Role,
    Side,
    canonical,
    digest_of,
    prompt_digest,
    text_json,
    text_of,
)
from plaudit.feedback.rows import annotator_of, assigned, by_id, completion_of, generator_of, label_of
from plaudit.records import Text

FILE = "feedback.db"


class Store:
    """A labelling project. Several threads, and several processes with a store each, can use it at once."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database

    @staticmethod
    def open(folder: str | Path, create: bool = True) -> Store:
        """Open the project in a folder such as RUN/feedback; without one, make it.

        Raises:
            FeedbackError: there is none and `create` is false, it is damaged, or made by a newer version.
        """
        return Store(Path(folder), Database.open(Path(folder) / FILE, create))

    def close(self) -> None:
        """Close the database; no thread may use the store any more."""
        self.database.close()

    def backup(self) -> Path:
        """Copy the database into `backups/`, also while people vote; the path of the copy."""
        return self.database.backup()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """A block whose writes of this thread are done together or not at all, which is much faster for many."""
        return self.database.writing()

    # What there is to compare

    def add_generator(
        self, name: str, model_hash: str = "", stage: str = "", details: Mapping[str, Any] | None = None
    ) -> int:
        """The id of what writes responses; the same one for equal arguments."""
        values = (name, model_hash, stage, canonical(dict(details or {})))
        with self.database.writing() as connection:
            connection.execute(
                "INSERT INTO generator (name, model_hash, stage, details) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                values,
            )
            query = "SELECT id FROM generator WHERE name = ? AND model_hash = ? AND stage = ? AND details = ?"
            return int(connection.execute(query, values).fetchone()[0])

    def generators(self) -> dict[int, Generator]:
        """What wrote responses, by id. For the one who runs the project, never for an annotator's page."""
        with self.database.reading() as connection:
            return {row["id"]: generator_of(row) for row in connection.execute("SELECT * FROM generator ORDER BY id")}

    def add_completion(
        self,
        prompt: Text,
        text: str,
        generator: int | None = None,
        token_ids: Sequence[int] | None = None,
        sampling: Mapping[str, Any] | None = None,
        seed: int | None = None,
        features: np.ndarray | None = None,
    ) -> int:
        """The id of a response; the same one for equal arguments, so a process that starts again adds nothing twice.

        Args:
            prompt: a text or messages.
            text: the response.
            generator: what wrote it.
            token_ids: its tokens.
            sampling: settings such as the temperature.
            seed: of its random numbers.
            features: (D,) activations of a frozen backbone; they can be added by calling again.
        """
        content = text_json(prompt)
        ids = None if token_ids is None else [int(token) for token in token_ids]
        blob = None if features is None else np.asarray(features, dtype="<f4").tobytes()
        with self.database.writing() as connection:
            prompt_id = _prompt(connection, content)
            packed = [None if value is None else canonical(value) for value in (ids, sampling)]
            digest = digest_of([content, text, generator, *packed, seed])
            connection.execute(
                "INSERT INTO completion (prompt_id, generator_id, token_ids, text, sampling, seed, digest)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
                (prompt_id, generator, packed[0], text, packed[1], seed, digest),
            )
            found = connection.execute("SELECT id FROM completion WHERE digest = ?", (digest,)).fetchone()[0]
            if blob is not None:
                connection.execute("UPDATE completion SET features = ? WHERE id = ?", (blob, found))
            return int(found)

    def add_item(
        self, a: int, b: int, purpose: Purpose = "train", gold: Response | None = None, round: int = 0,
        now: float | None = None,
    ) -> int:  # fmt: skip
        """The id of a pair of completions to ask about; the same one if it is there, in either order.

        Raises:
            FeedbackError: the two answer different prompts or have the same text, or a gold pair has no answer.
        """
        if purpose == "gold" and gold is None:
            raise FeedbackError("a gold pair needs the known answer, a or b")
        with self.database.writing() as connection:
            query = "SELECT id, prompt_id, text FROM completion WHERE id IN (?, ?)"
            rows = {row["id"]: row for row in connection.execute(query, (a, b))}
            if {a, b} - set(rows):
                raise FeedbackError(f"completions {a} and {b}: not both are here")
            if a == b or rows[a]["text"] == rows[b]["text"]:
                raise FeedbackError(f"completions {a} and {b} have the same text: there is nothing to compare")
            if rows[a]["prompt_id"] != rows[b]["prompt_id"]:
                raise FeedbackError(f"completions {a} and {b} answer different prompts")
            query = "SELECT id FROM item WHERE a IN (?, ?) AND b IN (?, ?) AND purpose = ? AND round = ?"
            if row := connection.execute(query, (a, b, a, b, purpose, round)).fetchone():
                return int(row[0])
            created = time.time() if now is None else now
            cursor = connection.execute(
                "INSERT INTO item (prompt_id, a, b, purpose, gold, round, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (rows[a]["prompt_id"], a, b, purpose, gold, round, created),
            )
            return int(cursor.lastrowid or 0)

    def items(self, purpose: Purpose | None = None) -> list[Item]:
        """The pairs, or those of one purpose, by id."""
        query = "SELECT * FROM item WHERE purpose = ifnull(?, purpose) ORDER BY id"
        with self.database.reading() as connection:
            return [Item(*row) for row in connection.execute(query, (purpose,))]

    def completions(self, ids: Iterable[int]) -> dict[int, Completion]:
        """Completions by id."""
        with self.database.reading() as connection:
            return {row["id"]: completion_of(row) for row in by_id(connection, "completion", ids)}

    def prompts(self, ids: Iterable[int]) -> dict[int, Text]:
        """Prompts by id."""
        with self.database.reading() as connection:
            return {row["id"]: text_of(row["content"]) for row in by_id(connection, "prompt", ids)}

    # People and their answers

    def add_annotator(self, name: str, role: Role, secret: str, now: float | None = None) -> Annotator:
        """A new annotator, who is recognised by a secret.

        Raises:
            FeedbackError: the name is empty or somebody else has it.
        """
        name, at = " ".join(name.split()), time.time() if now is None else now
        if not name:
            raise FeedbackError("a name is needed")
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM annotator WHERE name = ?", (name,)).fetchone():
                raise FeedbackError(f"somebody else has the name {name!r:.60}: choose another one")
            cursor = connection.execute(
                "INSERT INTO annotator (name, role, secret_hash, joined, seen) VALUES (?, ?, ?, ?, ?)",
                (name, role, _hash(secret), at, at),
            )
            return Annotator(int(cursor.lastrowid or 0), name, role, at, at)

    def annotator(self, secret: str) -> Annotator | None:
        """Whose secret this is."""
        given = _hash(secret)
        with self.database.reading() as connection:
            row = connection.execute("SELECT * FROM annotator WHERE secret_hash = ?", (given,)).fetchone()
        return annotator_of(row) if row and hmac.compare_digest(row["secret_hash"], given) else None

    def annotators(self) -> list[Annotator]:
        """Everybody, in the order of joining."""
        with self.database.reading() as connection:
            return [annotator_of(row) for row in connection.execute("SELECT * FROM annotator ORDER BY id")]

    def assignment(self, assignment_id: int, annotator_id: int) -> Assignment:
        """What an annotator was asked.

        Raises:
            FeedbackError: he or she was not asked this.
        """
        with self.database.reading() as connection:
            return assigned(connection, assignment_id, annotator_id)

    def record(
        self,
        uuid: str,
        assignment_id: int | None,
        annotator_id: int,
        kind: str,
        choice_side: Side | None = None,
        strength: int = 1,
        active_ms: int = 0,
        wall_ms: int = 0,
        revised: str = "choose",
        now: float | None = None,
    ) -> Event:
        """Write down what an annotator did; the same request again (by its uuid) gives the same event.

        choose, tie, both_bad, skip: the answer to an assignment that has none.
        revise: another answer instead; `revised` is its kind.
        undo: takes back the annotator's last answer, and the pair is asked again next. `assignment_id` may be None.
        reveal: the annotator is shown what wrote the responses; the answer is final from then on.

        Args:
            uuid: made by the client, for one request.
            assignment_id: what was asked.
            annotator_id: who did it.
            kind: what was done.
            choice_side: the side that was chosen, for choose (and for revise to it).
            strength: 1, or 2 for a strong preference.
            active_ms: milliseconds that the annotator worked on the pair, without pauses.
            wall_ms: milliseconds since the pair was shown.
            revised: the kind of the new answer.
            now: seconds since 1970.

        Raises:
            FeedbackError: the assignment is not this annotator's, or what was done is not possible in its state.
        """
        at = time.time() if now is None else now
        with self.database.writing() as connection:
            return events.record(
                connection,
                uuid,
                assignment_id,
                annotator_id,
                kind,
                choice_side,
                strength,
                active_ms,
                wall_ms,
                revised,
                at,
            )

    def revealed(self, assignment_id: int, annotator_id: int) -> tuple[Generator | None, Generator | None] | None:
        """What wrote the left and the right response, once it has been revealed to this annotator; otherwise None."""
        query = (
            'SELECT a.generator_id, b.generator_id, "left" FROM assignment JOIN item ON item.id = item_id'
            " JOIN completion a ON a.id = item.a JOIN completion b ON b.id = item.b"
            " WHERE assignment.id = ? AND annotator_id = ?"
        )
        with self.database.reading() as connection:
            row = connection.execute(query, (assignment_id, annotator_id)).fetchone()
            if row is None or not events.is_revealed(connection, assignment_id):
                return None
            known = {one["id"]: generator_of(one) for one in by_id(connection, "generator", row[:2])}
        first, second = known.get(row[0]), known.get(row[1])
        return (first, second) if row["left"] == "a" else (second, first)

    def labels(self, purpose: Purpose | None = None, annotator: int | None = None, last: int = -1) -> list[Label]:
        """The valid answers, skips included, by event: of one purpose, of one annotator, or all; the last ones only."""
        given = {name: value for name, value in (("purpose", purpose), ("annotator", annotator)) if value is not None}
        where = "".join(f" AND {name} = :{name}" for name in given)  # a term that is always there would use no index
        query = f"SELECT * FROM label WHERE true{where} ORDER BY event DESC LIMIT :last"
        with self.database.reading() as connection:
            return [label_of(row) for row in connection.execute(query, given | {"last": last})][::-1]

    # Notes

    def meta(self, key: str) -> str | None:
        """A note about the project, such as its guidelines. Notes are exported: keep secrets elsewhere."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Replace a note."""
        with self.database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def progress(self) -> dict[str, Progress]:
        """How far other processes are, by key."""
        with self.database.reading() as connection:
            return {row["key"]: Progress(*row) for row in connection.execute("SELECT * FROM progress ORDER BY key")}

    def set_progress(self, key: str, done: int, total: int, message: str = "", now: float | None = None) -> None:
        """Say how far a process is."""
        at = time.time() if now is None else now
        with self.database.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)", (key, done, total, message, at)
            )


def _prompt(connection: sqlite3.Connection, content: str) -> int:
    digest = prompt_digest(content)
    connection.execute("INSERT INTO prompt (content, digest) VALUES (?, ?) ON CONFLICT DO NOTHING", (content, digest))
    return int(connection.execute("SELECT id FROM prompt WHERE digest = ?", (digest,)).fetchone()[0])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
