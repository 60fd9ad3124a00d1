"""Hashes of records: which are duplicates, and which may not be in two parts."""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import Any, Literal

from plaudit.data.text import content_digest
from plaudit.data.text import words as _words
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking, Text

Record = LabelledText | Demonstration | Comparison | Ranking | Prompt
Choice = Literal["a", "b", "tie"]

REPLY = "\n\nAssistant:"  # begins a reply in dialogues such as those of HH-RLHF


class Hashed:
    """A record with the hashes of its texts."""

    __slots__ = ("prompt", "record", "texts")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.texts = tuple(map(content_digest, texts_of(record)))
        self.prompt = content_digest(record.prompt) if record.prompt else b""

    @property
    def key(self) -> bytes:
        """The hash by which records are sorted: of the prompt, or of the text if there is no prompt."""
        record = self.record
        if isinstance(record, Comparison) and not record.prompt:
            return content_digest(" ".join(sorted(map(_words, (record.response_a, record.response_b)))))
        return self.prompt or self.texts[0]

    @property
    def identity(self) -> Hashable:
        """What duplicates have in common."""
        return self.prompt, self.texts, self.opinion

    @property
    def opinion(self) -> Hashable:
        """What a record says about its texts: the label, or the choice and the annotator."""
        record = self.record
        if isinstance(record, LabelledText):
            return record.label
        if isinstance(record, Demonstration | Prompt):
            return None
        if isinstance(record, Ranking):
            return record.annotator
        return record.choice, record.annotator  # two people who agree are two votes

    def anchors(self, whole: Set[bytes]) -> set[bytes]:
        """Hashes of what no other part may contain. Records that have one in common belong to one group.

        They are the prompt; without a prompt, every text, and the lines that both texts of a comparison begin with; of
        dialogues, the first turn. The same response to different prompts is no leak, unless it is also a whole text.

        Args:
            whole: hashes of the texts that stand without a prompt.
        """
        return set(self.openings()) | (whole & set(self.texts))

    def openings(self) -> list[bytes]:
        """The anchors that are not of whole texts."""
        if prompt := self.record.prompt:
            opening = _opening(prompt)
            return [self.prompt if opening == prompt else content_digest(opening)]
        texts = texts_of(self.record)
        openings = [_opening(text) for text in texts if not isinstance(text, str) or REPLY in text]
        if isinstance(self.record, Comparison):
            one, other = map(_words, texts)
            openings.append(common_beginning(one, other).rpartition("\n")[0])
        return [content_digest(text) for text in openings if text.strip()]


def texts_of(record: Record) -> tuple[Text, ...]:
    """The texts of a record, without its prompt."""
    if isinstance(record, Prompt):
        return ()
    if isinstance(record, LabelledText):
        return (record.text,)
    if isinstance(record, Demonstration):
        return (record.response,)
    return (record.response_a, record.response_b) if isinstance(record, Comparison) else record.responses


def _opening(prompt: Text) -> str:
    """The first turn of a dialogue, without the system's message, which many dialogues share; a whole prompt."""
    if isinstance(prompt, str):
        first = prompt.partition(REPLY)[0]
        return first if first.strip() else prompt
    return next((m.content for m in prompt if m.role != "system" and m.content.strip()), _words(prompt))


def common_beginning(one: str, other: str) -> str:
    """The characters that both texts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving compares slices, which is fast for long texts
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return one[:low]


def key(record: Record) -> bytes:
    """The hash by which records are sorted: of the prompt, or of the text if there is no prompt."""
    return Hashed(record).key


def order(value: Any) -> Any:
    """Something to sort by that texts, dialogues and numbers have."""
    if isinstance(value, tuple):
        return 1, [order(one) for one in value]
    return (0, value) if not isinstance(value, Message) else (2, value.role, value.content)
