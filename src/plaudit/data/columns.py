"""Rows of a table to records; the names of the columns decide the kind of record."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plaudit.data.splits import REPLY, UNLABELLED_TABLE, Record, common_beginning
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

TEXT = ("text", "sentence", "review")
RESPONSE = ("response", "completion")
LABELS = {"0": 0, "negative": 0, "neg": 0, "false": 0, "1": 1, "positive": 1, "pos": 1, "true": 1}
UNLABELLED = ("", "-1", "nan", "none")  # missing; -1 is GLUE's label of test texts, whose labels are not published
QUESTIONS = ("question", "instruction", "query", "input", "context", "history", "system")  # would belong to a prompt
SCORES = ("label", "rating", "score", "reward", "stars")
READ = (
    "text (or sentence, review) and label; prompt and response (or completion); chosen and rejected; or response_a, "
    "response_b and choice"
)

Values = dict[str, Any]
Choice = Literal["a", "b", "tie"]
CHOICES: dict[str, Choice] = {"a": "a", "b": "b", "tie": "tie"}


@dataclass(frozen=True)
class Table:
    """Rows as they were read."""

    name: str  # file path, or hub id and split
    unit: str  # what the row numbers count, from 1: "line" or "row"
    columns: tuple[str, ...]  # the header in lower case
    rows: list[tuple[int, Values]]  # number, and values by column


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
        left_out: Counter[str] = Counter()
        for number, values in table.rows:
            try:
                found.append(read(values))
            except _Unusable as reason:
                left_out[str(reason)] += 1
            except DataError as error:
                raise DataError(f"{table.name}, {table.unit} {number}: {error}") from None
        if left_out["unlabelled"] == len(table.rows):
            left_out = Counter({UNLABELLED_TABLE: len(table.rows)})
        dropped.update(left_out)
    return found


def _reader(table: Table) -> Callable[[Values], Record]:
    """The function that makes a record of a row of `table`."""
    columns = set(table.columns)
    text, response = (next((c for c in names if c in columns), None) for names in (TEXT, RESPONSE))
    kinds: dict[str, Callable[[Values], Record]] = {}
    if {"chosen", "rejected"} <= columns:
        kinds["chosen and rejected"] = lambda values: _comparison(values, "chosen", "rejected", "a")
    if {"response_a", "response_b", "choice"} <= columns:
        kinds["response_a, response_b and choice"] = lambda values: _comparison(
            values, "response_a", "response_b", _choice(values)
        )
    if response and "prompt" in columns:
        kinds[f"prompt and {response}"] = lambda values: Demonstration(_prompt(values), _filled(values, response))
    elif text and "label" in columns:
        kinds[f"{text} and label"] = lambda values: _labelled(values, text)
    if not kinds:
        missing = f"no column 'label' beside '{text}'" if text else "no columns to learn from"
        raise DataError(f"{table.name}: {missing}; found {_shown(table.columns)}; rename columns to {READ}")
    if len(kinds) > 1:
        raise DataError(f"{table.name}: columns of several kinds ({'; '.join(kinds)}): keep the columns of one")
    _check_other_columns(table, columns, response)
    return next(iter(kinds.values()))


def _check_other_columns(table: Table, columns: set[str], response: str | None) -> None:
    """Refuse columns that plaudit does not read and that change the meaning of those it reads."""
    demonstrations = response is not None and "prompt" in columns
    if {"reject", "ignore"} & {values.get("answer") for _, values in table.rows if _is_text(values.get("answer"))}:
        raise DataError(
            f"{table.name}: column 'answer' rejects rows, and plaudit does not read it: remove the rows that are not "
            "accepted, or correct their labels, then remove the column"
        )
    questions = [c for c in QUESTIONS if c in columns and any(values.get(c) for _, values in table.rows)]
    if questions and not (columns & {"label"} and columns & set(TEXT)):
        raise DataError(
            f"{table.name}: column {', '.join(map(repr, questions))} is not read; found {_shown(table.columns)}; join "
            "it to the column 'prompt', or remove it"
        )
    if demonstrations:
        rates = [c for c in table.columns if c in SCORES or _looks_like_a_rating(c, table)]
        if rates:
            raise DataError(
                f"{table.name}: columns 'prompt' and '{response}' do not go with {_shown(rates)}, because SFT imitates "
                f"every response: keep the rows with good responses and remove the column {_shown(rates)}"
            )


def _looks_like_a_rating(column: str, table: Table) -> bool:
    """Whether all values are numbers that vary and repeat. Identifiers do not repeat, or say what they are."""
    if column in ("prompt", "response", "completion", "") or column.endswith(("id", "idx", "index")):
        return False
    values = [row[column] for _, row in table.rows if row.get(column) not in (None, "")]
    return bool(values) and all(map(_is_number, values)) and 1 < len(set(map(float, values))) < len(values)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float, str)) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _shown(columns: Sequence[str]) -> str:
    """The first names of `columns`, shortened, in quotes."""
    return ", ".join(reprlib.repr(c) for c in columns[:10]) + (", ..." if len(columns) > 10 else "") or "none"


def _labelled(values: Values, column: str) -> LabelledText:
    given = _value(values, "label")
    word = str(given).strip().lower().removesuffix(".0")  # pandas writes 1.0 when some labels are missing
    if word in UNLABELLED:
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
    prompt = _prompt(values) if "prompt" in values else ""
    if not prompt:  # in HH-RLHF both texts begin with their dialogue
        before, reply, _ = common_beginning(first, second).rpartition(REPLY)
        prompt = before + reply
        first, second = first[len(prompt) :], second[len(prompt) :]
        if not (first.strip() and second.strip()):
            raise _Unusable("empty")
    annotator = values.get("annotator")
    return Comparison(prompt, first, second, choice, "" if annotator is None else str(annotator))


def _prompt(values: Values) -> str:
    """The prompt; empty if it is blank."""
    prompt = _text(values, "prompt")
    return prompt if prompt.strip() else ""


def _filled(values: Values, column: str) -> str:
    """The text in `column`, which must not be blank."""
    text = _text(values, column)
    if not text.strip():
        raise _Unusable("empty")
    return text


def _text(values: Values, column: str) -> str:
    """The text in `column`; empty for null."""
    value = _value(values, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{column} {reprlib.repr(value)}: must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON allows "\ud800"
        raise DataError(f"{column} has half of a surrogate pair, which is not a character: remove it") from None
    return value


def _value(values: Values, column: str) -> Any:
    if column not in values:
        raise DataError(f"no '{column}'; found {_shown(list(values))}")
    return values[column]
