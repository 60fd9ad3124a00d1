"""The rows of a labelling project as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plaudit.records import Message, Text

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


ERROR = "error: "  # before the message of a process that has ended before its work was done


@dataclass(frozen=True)
class Progress:
    """How far a process that makes pairs is."""

    key: str
    done: int
    total: int
    message: str
    at: float

    @property
    def failed(self) -> bool:
        """Whether the process has ended before its work was done."""
        return self.message.startswith(ERROR)


def text_json(text: Text) -> str:
    """A text, or the messages of a dialogue, as JSON: equal texts give equal JSON."""
    turns = text if isinstance(text, str) else [{"role": turn.role, "content": turn.content} for turn in text]
    return canonical(turns)


def text_of(content: str) -> Text:
    """The text or dialogue that `text_json` wrote."""
    found = json.loads(content)
    return found if isinstance(found, str) else tuple(Message(turn["role"], turn["content"]) for turn in found)


def canonical(value: Any) -> str:
    """JSON without spaces, with sorted keys and without NaN."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(content: Any) -> str:
    """SHA-256 of the JSON of a value."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def prompt_digest(content: str) -> str:
    """SHA-256 of a prompt as `text_json` writes it."""
    return hashlib.sha256(content.encode()).hexdigest()
