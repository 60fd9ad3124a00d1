"""Values of one row: texts, conversations and labels, checked."""

from __future__ import annotations

import ast
import json
import reprlib
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from plaudit.data.labels import Meaning
from plaudit.data.tables import Values, shown
from plaudit.errors import DataError
from plaudit.records import Dialogue, Message, Text

ROLES = {
    **dict.fromkeys(("human", "user", "prompter", "instruction"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard", "chosen"), "assistant"),
    **dict.fromkeys(("tool", "function", "function_response", "observation"), "tool"),
    "system": "system",
    "developer": "system",
}


class Unusable(Exception):
    """The row is left out and counted; the message is the reason."""


class Row:
    """One row, with columns by the names that a layout uses."""

    def __init__(self, names: Mapping[str, str], meaning: Meaning | None = None) -> None:
        """Columns of the table by the names of the layout, and how its labels are read."""
        self.names, self.meaning = names, meaning
        self.values: Values = {}

    def has(self, name: str) -> bool:
        """Whether the row has a value here that is not null or blank."""
        value = self.values.get(self.names.get(name, name))
        return value not in (None, "") and not (isinstance(value, str) and not value.strip())

    def value(self, name: str) -> Any:
        """The value in a column, which the row must have."""
        column = self.names.get(name, name)
        try:
            return self.values[column]
        except KeyError:
            raise DataError(f"no '{column}'; found {shown(self.values)}") from None

    def optional(self, name: str) -> Any:
        """The value in a column, or None."""
        return self.values.get(self.names.get(name, name))

    def text(self, name: str) -> str:
        """The text in a column; empty for null."""
        return text(self.value(name), self.names.get(name, name))

    def filled(self, name: str) -> str:
        """The text in a column, which must not be blank."""
        found = self.text(name)
        if not found.strip():
            raise Unusable("empty")
        return found

    def prompt(self, name: str) -> str:
        """The text in a column; empty if the column is missing, or its text is blank."""
        found = text(self.optional(name), self.names.get(name, name))
        return found if found.strip() else ""

    def grade(self, labels: list[Any]) -> float:
        """The mean of what several labels say, of those that say something."""
        assert self.meaning
        numbers = [number for number in map(self.meaning, labels) if number is not None]
        if not numbers:
            raise Unusable("unlabelled")
        if len(numbers) == 1:
            return numbers[0]
        mean = sum(numbers) / len(numbers)
        return int(mean) if mean in (0, 1) else mean

    def number(self, name: str) -> float | None:
        """The number in a column; None without one."""
        value = self.optional(name)
        if value in (None, ""):
            return None
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{self.names.get(name, name)} {reprlib.repr(value)}: must be a number") from None

    def word(self, name: str, words: Mapping[str, Any]) -> Any:
        """What the word in a column stands for."""
        value = self.value(name)
        word = str(value).strip().lower().removesuffix(".0")
        if word not in words:
            known = list(words)
            raise DataError(
                f"{self.names.get(name, name)} {reprlib.repr(value)}: must be {', '.join(known[:-1])} or {known[-1]}"
            )
        return words[word]


def text(value: Any, column: str) -> str:
    """A value that must be text; empty for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column} {reprlib.repr(value)}: must be text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON allows "\ud800"
        raise DataError(f"{column} has half of a surrogate pair, which is not a character: remove it") from None
    return value


def unpacked(value: Any, column: str) -> list[Any]:
    """A list; in the cell of a spreadsheet it is JSON, or what Python prints."""
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if not isinstance(value, list):
        raise DataError(f"{column} {reprlib.repr(value)}: must be a list")
    return value


def dialogue(value: Any, column: str) -> Dialogue:
    """The turns of a conversation: a list of objects with role and content, or with from and value."""
    turns = []
    for turn in unpacked(value, column):
        if not isinstance(turn, dict):
            raise DataError(f"{column} {reprlib.repr(turn)}: a turn must be an object with role and content")
        turn = {key.lower(): part for key, part in turn.items() if isinstance(key, str)}
        role = next((turn[key] for key in ("role", "from") if key in turn), None)
        content = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
        if not isinstance(role, str) or not role.strip():
            raise DataError(f"{column}: a turn without a role; found {shown(turn)}")
        if turn.get("tool_calls") or turn.get("function_call"):
            raise Unusable("tool calls")
        if turn.get("weight") == 0:
            raise Unusable("turns of weight 0")
        name = role.strip().lower()
        turns.append(Message(ROLES.get(name, name), _content(content, column)))
    if not any(turn.content.strip() for turn in turns):
        raise Unusable("empty")
    return tuple(turns)


def _content(value: Any, column: str) -> str:
    """The text of a turn, which may come in parts."""
    if not isinstance(value, list):
        return text(value, column)
    parts = []
    for part in value:
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise Unusable("images or other media")
        parts.append(text(part.get("text") if isinstance(part, dict) else part, column))
    return "".join(parts)


def turns(value: Any, column: str, role: str) -> Dialogue:
    """A conversation, or a text as one turn."""
    if isinstance(value, list) or (isinstance(value, str) and value.startswith(("[{", '["'))):
        return dialogue(value, column)
    content = text(value, column)
    return (Message(role, content),) if content.strip() else ()


def before_reply(messages: Dialogue) -> int:
    """The number of turns before the first reply."""
    return sum(1 for _ in takewhile(lambda message: message.role != "assistant", messages))


def after(prompt: Dialogue, a: Dialogue, b: Dialogue) -> tuple[Dialogue, Dialogue, Dialogue]:
    """Prompt and two responses, from conversations that may repeat the prompt.

    The turns that both begin with belong to the prompt, as long as both go on with a reply.
    """
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    while shared and not all(len(rest) > shared and rest[shared].role == "assistant" for rest in (a, b)):
        shared -= 1
    said, asked = _plain(a[:shared]), _plain(prompt)
    repeated = bool(asked) and (said[: len(asked)] == asked or said[-len(asked) :] == asked)
    return (() if repeated else prompt) + a[:shared], a[shared:], b[shared:]


def _plain(messages: Dialogue) -> list[tuple[str, str]]:
    return [(message.role, message.content.strip()) for message in messages]


def is_blank(value: Text) -> bool:
    """Whether a text has no character, or a conversation no reply with one."""
    if isinstance(value, str):
        return not value.strip()
    return not any(message.content.strip() for message in value if message.role == "assistant")
