"""Rows of a table to records; the names of the columns decide the kind of record."""

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
LABELS = {"0": 0, "negative": 0, "neg": 0, "false": 0, "1": 1, "positive": 1, "pos": 1, "true": 1}
UNLABELLED = "-1"  # GLUE's label of test texts, whose labels are not published

Values = dict[str, Any]
Choice = Literal["a", "b", "tie"]
CHOICES: dict[str, Choice] = {"a": "a", "b": "b", "tie": "tie"}


@dataclass(frozen=True)
class Table:
    """Rows as they were read."""

    name: str  # file path, or hub id and split
    unit: str  # what the row numbers count, from 1: "line" or "row"
    columns: tuple[str, ...]  # the header in lower case
    rows: Iterable[tuple[int, Values]]  # number, and values by column


class _Unusable(Exception):
    """The row is left out and counted; the message is the reason."""


def records(tables: Iterable[Table], dropped: Counter[str]) -> list[Record]:
    """The records in `tables`. Rows that cannot be learned from are counted in `dropped` by reason.

    Raises:
        DataError: the columns fit no kind of record, or a value is not allowed.
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
    """The function that makes a record of a row of `table`."""
    columns = set(table.columns)
    text, response = (next((c for c in names if c in columns), None) for names in (TEXT, RESPONSE))
    if {"chosen", "rejected"} <= columns:
        return lambda values: _comparison(values, "chosen", "rejected", "a")
    if {"response_a", "response_b", "choice"} <= columns:
        return lambda values: _comparison(values, "response_a", "response_b", _choice(values))
    if response and "prompt" in columns:
        if "label" in columns:  # KTO's format: responses with a negative label must not be imitated
            raise DataError(
                f"{table.name}: columns 'prompt' and '{response}' do not go with 'label', because SFT imitates every "
                "response: keep the rows with good responses and remove the column 'label'"
            )
        return lambda values: Demonstration(_prompt(values), _filled(values, response))
    if text and "label" in columns:
        return lambda values: _labelled(values, text)
    shown = ", ".join(reprlib.repr(c) for c in table.columns[:10]) + (", ..." if len(table.columns) > 10 else "")
    missing = f"no column 'label' beside '{text}'" if text else "no columns to learn from"
    raise DataError(
        f"{table.name}: {missing}; found {shown or 'none'}; rename columns to text (or sentence, review) and label; "
        "prompt and response (or completion); chosen and rejected; or response_a, response_b and choice"
    )


def _labelled(values: Values, column: str) -> LabelledText:
    given = values.get("label")
    word = str(given).strip().lower().removesuffix(".0")  # pandas writes 1.0 when some labels are missing
    if word == UNLABELLED:
        raise _Unusable("unlabelled")
    if word not in LABELS:
        raise DataError(f"label {reprlib.repr(given)}: must be 0 (or negative) or 1 (or positive)")
    return LabelledText(_filled(values, column).strip(), LABELS[word])  # all sentences of SST-2 end in a space


def _choice(values: Values) -> Choice:
    word = _text(values, "choice").strip().lower()
    if word not in CHOICES:
        raise DataError(f"choice {reprlib.repr(values['choice'])}: must be a, b or tie")
    return CHOICES[word]


def _comparison(values: Values, a: str, b: str, choice: Choice) -> Comparison:
    first, second = _filled(values, a), _filled(values, b)
    if first == second:
        raise _Unusable("identical responses")
    annotator = values.get("annotator")
    return Comparison(_prompt(values), first, second, choice, "" if annotator is None else str(annotator))


def _prompt(values: Values) -> str:
    """The prompt; empty if it is blank or missing."""
    prompt = _text(values, "prompt") if "prompt" in values else ""
    return prompt if prompt.strip() else ""


def _filled(values: Values, column: str) -> str:
    """The text in `column`, which must not be blank."""
    text = _text(values, column)
    if not text.strip():
        raise _Unusable("empty")
    return text


def _text(values: Values, column: str) -> str:
    """The text in `column`; empty for null."""
    if column not in values:
        raise DataError(f"no '{column}'; found {', '.join(map(reprlib.repr, values)) or 'nothing'}")
    value = values[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column} {reprlib.repr(value)}: must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON allows "\ud800"
        raise DataError(f"{column} has half of a surrogate pair, which is not a character: remove it") from None
    return value
