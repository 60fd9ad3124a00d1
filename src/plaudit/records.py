"""Training data as plain records."""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # "system", "user", "assistant", or another role that the model's chat template knows
    content: str


Dialogue: TypeAlias = tuple[Message, ...]
Text: TypeAlias = str | Dialogue  # plain text, or turns that the model's chat template puts into words


@dataclass(frozen=True)
class Demonstration:
    """A response to imitate. With an empty `prompt`, `response` is the whole text.

    If both are dialogues, the model learns the assistant's turns of `response`.
    """

    prompt: Text
    response: Text


@dataclass(frozen=True)
class Prompt:
    """A prompt without a response: a policy answers it, and SFT imitates nothing."""

    prompt: Text


@dataclass(frozen=True)
class LabelledText:
    """A text with a label: 1 is good (positive), 0 is bad (negative). With a `prompt`, it is a response to it."""

    text: Text
    label: float  # between 0 and 1: the share of people, or the probability, that calls it good
    prompt: Text = ""


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

    prompt: Text
    response_a: Text
    response_b: Text
    choice: Literal["a", "b", "tie"]
    annotator: str = ""
    margin: float = 0.0  # by how much the preferred one is better, in the units of the data; 0 where it is not known


@dataclass(frozen=True)
class Ranking:
    """Several responses to one prompt, from the best to the worst."""

    prompt: Text
    responses: tuple[Text, ...]
    annotator: str = ""


def dialogue(text: Text, role: str) -> Dialogue:
    """`text` as messages: a string is one message of this role, an empty string none."""
    if isinstance(text, str):
        return (Message(role, text),) if text else ()
    return text


def transcript(text: Text) -> str:
    """`text` for people to read: a dialogue as "Human: ..." and "Assistant: ..." with empty lines between the turns."""
    if isinstance(text, str):
        return text
    names = ("Human" if message.role == "user" else message.role.capitalize() for message in text)
    return "\n\n".join(f"{name}: {message.content.strip()}" for name, message in zip(names, text, strict=True))


def asking(prompt: Text) -> str:
    """A prompt for people to read: of a dialogue the transcript, up to where the assistant replies."""
    return prompt if isinstance(prompt, str) else f"{transcript(prompt)}\n\nAssistant:"
