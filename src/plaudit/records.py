"""Training data as plain records."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Demonstration:
    """A response to imitate. With an empty `prompt`, `response` is the whole text."""

    prompt: str
    response: str


@dataclass(frozen=True)
class LabelledText:
    """A text with a label: 1 is good (positive), 0 is bad (negative)."""

    text: str
    label: int


@dataclass(frozen=True)
class RatedText:
    """A text and its ratings by several people.

    The same people rated all texts of one `batch`, and position i of `ratings` is the same person in each of them.
    """

    text: str
    ratings: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and the one that an annotator preferred."""

    prompt: str
    response_a: str
    response_b: str
    choice: Literal["a", "b", "tie"]
    annotator: str = ""
