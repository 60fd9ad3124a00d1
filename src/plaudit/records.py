"""What people give us to learn from, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Demonstration:
    """A response worth imitating. `prompt` may be empty: the whole text is then the response."""

    prompt: str
    response: str


@dataclass(frozen=True)
class LabelledText:
    """A text that somebody judged: label 1 is good (positive), 0 is not."""

    text: str
    label: int


@dataclass(frozen=True)
class RatedText:
    """A text and the number that each of several people gave it.

    All texts of one `batch` were rated by the same people, and their ratings stand in the same order.
    """

    text: str
    ratings: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and which of them somebody preferred."""

    prompt: str
    response_a: str
    response_b: str
    choice: Literal["a", "b", "tie"]
    annotator: str = ""
