"""Data that a program passes: records, tuples, texts or rows with named columns.

They are found again by a name that is a hash of them. They are not on the disk: a program that resumes a run passes
them again, and the run compares the fingerprint.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from plaudit.data.hashed import Record
from plaudit.data.splits import Splits
from plaudit.data.tables import Values
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText, Message

PREFIX = "memory-"
WHERE, HELD_OUT = "the data in memory", "the evaluation data in memory"  # in errors
_READ = (
    "a record, a text, (text, label), (prompt, response), (prompt, chosen, rejected), or a dictionary with the columns "
    "of a file"
)
_kept: dict[str, Splits] = {}  # of this process, by name


def keep(splits: Splits) -> Splits:
    """`splits` under a name that is a hash of its records, by which this process finds them again."""
    named = dataclasses.replace(splits, name=PREFIX + splits.fingerprint[:12])
    return _kept.setdefault(named.name, named)


def find(name: str) -> Splits:
    """The data that `keep` has named so in this process, or a DataError."""
    if name not in _kept:
        raise DataError(
            f"{name}: the data of this run were in the memory of another process; pass them again in Python: "
            "plaudit.open_run(path, data=...)"
        )
    return _kept[name]


def separate(data: Iterable[Any], where: str) -> tuple[list[Record], list[tuple[int, Values]]]:
    """The records that the items of `data` are or stand for; or the rows, with their numbers from 1.

    Args:
        where: what the data are called in an error.

    Raises:
        DataError: an item is neither, or there are both.
    """
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a table of pandas
        data = data.to_dict("records")
    records: list[Record] = []
    rows: list[tuple[int, Values]] = []
    for number, item in enumerate(data, start=1):
        if isinstance(item, Mapping):
            rows.append((number, {str(column).strip().lower(): value for column, value in item.items()}))
        elif (record := _record(item)) is not None:
            records.append(record)
        else:
            raise refusal(f"{where}, item {number}", f"{reprlib.repr(item)} is no record")
    if records and rows:
        raise refusal(where, f"{len(rows)} dictionaries and {len(records)} other items are mixed")
    return records, rows


def refusal(where: str, problem: str) -> DataError:
    """An error about data in memory, with what may be given."""
    return DataError(f"{where}: {problem}; give {_READ}")


def _record(item: Any) -> Record | None:
    if isinstance(item, Record):
        return item
    if isinstance(item, str):
        return Demonstration("", item)
    parts = tuple(item) if isinstance(item, list | tuple) else ()
    if len(parts) == 2 and _is_text(parts[0]) and isinstance(parts[1], int | float) and 0 <= parts[1] <= 1:
        return LabelledText(parts[0], int(parts[1]) if parts[1] in (0, 1) else parts[1])
    if not all(map(_is_text, parts)):
        return None
    if len(parts) == 2:
        return Demonstration(*parts)
    return Comparison(*parts, "a") if len(parts) == 3 else None


def _is_text(value: Any) -> bool:
    """Whether it is a text, or a dialogue as records have it."""
    return isinstance(value, str) or (
        isinstance(value, tuple) and bool(value) and all(isinstance(turn, Message) for turn in value)
    )
