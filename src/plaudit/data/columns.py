"""Rows to records: what the columns of a table say about its kind."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from plaudit.data.splits import Record
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

TEXT = ("text", "sentence", "review")
RESPONSE = ("response", "completion")
WANTED = (
    "text (or sentence, review) and label; prompt and response (or completion); "
    "chosen and rejected; or response_a, response_b and choice"
)
UNLABELLED = "-1"  # GLUE's mark for a test text whose label is kept secret
LABELS = {"0": 0, "negative": 0, "neg": 0, "false": 0, "1": 1, "positive": 1, "pos": 1, "true": 1}
CHOICES: dict[str, Literal["a", "b", "tie"]] = {"a": "a", "b": "b", "tie": "tie"}

Values = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as they came.

    Attributes:
        name: the path, or the hub id and its split.
        unit: what the numbers of the rows count: "line" or "row", from 1.
        columns: the header, in lower case.
        rows: each row's number and its values by column.
    """

    name: str
    unit: str
    columns: tuple[str, ...]
    rows: Iterable[tuple[int, Values]]


class _Unusable(Exception):
    """A row to leave out and count; the message is the reason."""


def records(tables: Iterable[Table], dropped: Counter[str]) -> list[Record]:
    """The records of `tables`; rows that hold nothing to learn from are counted in `dropped` by reason.

    Raises:
        DataError: columns of no known kind, or a value that cannot be right, with its line.
    """
    found: list[Record] = []
    for table in tables:
        read = _reader(table)
        for number, values in table.rows:
            try:
                found.append(read(values))
            except _Unusable as reason:
                dropped[str(reason)] += 1
            except DataError as error:
                raise DataError(f"{table.name}, {table.unit} {number}: {error}") from None
    return found


def _reader(table: Table) -> Callable[[Values], Record]:
    """How to read a row of `table`, by its columns."""
    columns = set(table.columns)
    text = next((c for c in TEXT if c in columns), None)
    response = next((c for c in RESPONSE if c in columns), None)
    if {"chosen", "rejected"} <= columns:
        return _chosen
    if {"response_a", "response_b", "choice"} <= columns:
        return _choice
    if response and "prompt" in columns:
        if "label" in columns:  # as in KTO's format: a bad response must not be imitated
            raise DataError(
                f"{table.name}: has a label beside prompt and {response}, and only good responses can be imitated: "
                "keep those and remove the column 'label'"
            )
        return lambda values: _demonstration(values, response)
    if text and "label" in columns:
        return lambda values: _labelled(values, text)
    shown = ", ".join(reprlib.repr(c) for c in table.columns[:10]) + (", ..." if len(table.columns) > 10 else "")
    missing = f"no column 'label' beside '{text}'" if text else "no columns to learn from"
    raise DataError(f"{table.name}: {missing}: found {shown or 'none'}; wanted {WANTED}")


def _labelled(values: Values, column: str) -> LabelledText:
    # Surrounding space carries no meaning in a whole text, and SST-2's sentences all end in one.
    text = _text(values, column).strip()
    given = values.get("label")
    word = str(given).strip().lower().removesuffix(".0")  # pandas writes labels as 1.0 when some are missing
    if word == UNLABELLED:
        raise _Unusable("unlabelled")
    if word not in LABELS:
        raise DataError(f"label {reprlib.repr(given)}: must be 0 (or negative) or 1 (or positive)")
    if not text:
        raise _Unusable("empty")
    return LabelledText(text, LABELS[word])


def _demonstration(values: Values, column: str) -> Demonstration:
    prompt, response = _prompt(values), _text(values, column)
    if not response.strip():
        raise _Unusable("empty")
    return Demonstration(prompt, response)


def _chosen(values: Values) -> Comparison:
    return _comparison(values, "chosen", "rejected", "a")


def _choice(values: Values) -> Comparison:
    word = _text(values, "choice").strip().lower()
    if word not in CHOICES:
        raise DataError(f"choice {reprlib.repr(values['choice'])}: must be a, b or tie")
    return _comparison(values, "response_a", "response_b", CHOICES[word])


def _comparison(values: Values, a: str, b: str, choice: Literal["a", "b", "tie"]) -> Comparison:
    prompt, first, second = _prompt(values), _text(values, a), _text(values, b)
    annotator = values.get("annotator")
    if not first.strip() or not second.strip():
        raise _Unusable("empty")
    if first == second:
        raise _Unusable("identical responses")
    return Comparison(prompt, first, second, choice, "" if annotator is None else str(annotator))


def _prompt(values: Values) -> str:
    """The prompt; empty when it is blank or the row has none."""
    prompt = _text(values, "prompt") if "prompt" in values else ""
    return prompt if prompt.strip() else ""


def _text(values: Values, column: str) -> str:
    """The text in `column`; a null is an empty text."""
    if column not in values:
        raise DataError(f"no '{column}'; found {', '.join(map(reprlib.repr, values)) or 'nothing'}")
    value = values[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column} is {reprlib.repr(value)}: must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a character: "\ud800"
        raise DataError(f"{column} holds half a surrogate pair, which is no character") from None
    return value
