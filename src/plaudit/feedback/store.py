"""The data of one labelling project: pairs of responses, annotators, what each was asked, and what they answered.

Everything is in one folder: `feedback.db` and `backups/`. What is asked and answered is never changed or removed: an
answer is an event, and so are taking it back and revising it. Functions that write return when the data are on the disk.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plaudit.errors import FeedbackError
from plaudit.feedback.database import Database
from plaudit.records import Message, Text

FILE = "feedback.db"

Purpose = Literal["train", "eval", "gold", "practice"]
Role = Literal["owner", "person", "simulated"]
Side = Literal["left", "right"]
Response = Literal["a", "b"]
Kind = Literal["choose", "tie", "both_bad", "skip", "undo", "revise", "reveal"]
Outcome = Literal["a", "b", "tie", "both_bad", "skip"]
Answer = Literal["left", "right", "tie", "both_bad", "skip"]


@dataclass(frozen=True)
class Annotator:
    """Somebody who compares. The secret that opens the page is known by its hash only."""

    id: int
    name: str
    role: Role
    joined: float  # seconds since 1970, as all times
    seen: float


@dataclass(frozen=True)
class Generator:
    """What wrote a response: a checkpoint, or a file that was imported."""

    id: int
    name: str
    model_hash: str
    stage: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Completion:
    """A response to a prompt."""

    id: int
    prompt: int
    text: str
    generator: int | None
    token_ids: tuple[int, ...] | None
    sampling: Mapping[str, Any] | None
    seed: int | None
    features: np.ndarray | None  # (D,) float32

    @property
    def length(self) -> int:
        """Characters, which is what a person sees."""
        return len(self.text)


@dataclass(frozen=True)
class Item:
    """A pair of responses to ask about."""

    id: int
    prompt: int
    a: int  # completions
    b: int
    purpose: Purpose
    gold: Response | None  # the known answer
    round: int
    created: float


@dataclass(frozen=True)
class Assignment:
    """What one annotator is asked. It does not tell what wrote the responses."""

    id: int
    annotator: int
    item: int
    purpose: Purpose
    repeat: bool  # asked before, with sides swapped
    prompt: Text
    left: str
    right: str
    answer: Answer | None  # that is valid now


@dataclass(frozen=True)
class Event:
    """Something that an annotator did."""

    id: int
    uuid: str
    assignment: int
    kind: Kind
    outcome: Outcome | None  # None for undo and reveal
    strength: int  # 1, or 2 for strongly
    active_ms: int
    wall_ms: int
    at: float


@dataclass(frozen=True)
class Label:
    """An answer that is valid now: not taken back, as last revised."""

    assignment: int
    annotator: int
    item: int
    prompt: int
    a: int  # completions
    b: int
    purpose: Purpose
    gold: Response | None
    round: int
    repeat: bool
    left: Response
    event: int
    outcome: Outcome
    strength: int
    active_ms: int
    wall_ms: int
    at: float

    @property
    def ms(self) -> int:
        """Milliseconds that the annotator worked on it, without pauses."""
        return self.active_ms


@dataclass(frozen=True)
class Progress:
    """How far a process that makes pairs is."""

    key: str
    done: int
    total: int
    message: str
    at: float


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

    # What there is to compare

    def add_generator(
        self, name: str, model_hash: str = "", stage: str = "", details: Mapping[str, Any] | None = None
    ) -> int:
        """The id of what writes responses; the same one for equal arguments."""
        raise NotImplementedError

    def generators(self) -> dict[int, Generator]:
        """What wrote responses, by id. For the one who runs the project, never for an annotator's page."""
        raise NotImplementedError

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
        raise NotImplementedError

    def add_item(
        self, a: int, b: int, purpose: Purpose = "train", gold: Response | None = None, round: int = 0,
        now: float | None = None,
    ) -> int:  # fmt: skip
        """The id of a pair of completions to ask about; the same one if it is there, in either order.

        Raises:
            FeedbackError: the two answer different prompts or have the same text, or a gold pair has no answer.
        """
        raise NotImplementedError

    def items(self, purpose: Purpose | None = None) -> list[Item]:
        """The pairs, or those of one purpose, by id."""
        raise NotImplementedError

    def completions(self, ids: Iterable[int]) -> dict[int, Completion]:
        """Completions by id."""
        raise NotImplementedError

    def prompts(self, ids: Iterable[int]) -> dict[int, Text]:
        """Prompts by id."""
        raise NotImplementedError

    # People and their answers

    def add_annotator(self, name: str, role: Role, secret: str, now: float | None = None) -> Annotator:
        """A new annotator, who is recognised by a secret.

        Raises:
            FeedbackError: the name is empty or somebody else has it.
        """
        raise NotImplementedError

    def annotator(self, secret: str) -> Annotator | None:
        """Whose secret this is."""
        raise NotImplementedError

    def annotators(self) -> list[Annotator]:
        """Everybody, in the order of joining."""
        raise NotImplementedError

    def assignment(self, assignment_id: int, annotator_id: int) -> Assignment:
        """What an annotator was asked.

        Raises:
            FeedbackError: he or she was not asked this.
        """
        raise NotImplementedError

    def record(
        self,
        uuid: str,
        assignment_id: int | None,
        annotator_id: int,
        kind: Kind,
        choice_side: Side | None = None,
        strength: int = 1,
        active_ms: int = 0,
        wall_ms: int = 0,
        revised: Literal["choose", "tie", "both_bad", "skip"] = "choose",
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
        raise NotImplementedError

    def revealed(self, assignment_id: int, annotator_id: int) -> tuple[Generator | None, Generator | None] | None:
        """What wrote the left and the right response, once it has been revealed to this annotator; otherwise None."""
        raise NotImplementedError

    def labels(self, purpose: Purpose | None = None, annotator: int | None = None) -> list[Label]:
        """The valid answers, skips included, by event: of one purpose, of one annotator, or all."""
        raise NotImplementedError

    # Notes

    def meta(self, key: str) -> str | None:
        """A note about the project, such as its guidelines. Notes are exported: keep secrets elsewhere."""
        raise NotImplementedError

    def set_meta(self, key: str, value: str) -> None:
        """Replace a note."""
        raise NotImplementedError

    def progress(self) -> dict[str, Progress]:
        """How far other processes are, by key."""
        raise NotImplementedError

    def set_progress(self, key: str, done: int, total: int, message: str = "", now: float | None = None) -> None:
        """Say how far a process is."""
        raise NotImplementedError
