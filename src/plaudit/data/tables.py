"""Tables: rows as they were read, a profile of their columns, and a description of how they were read."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plaudit.errors import DataError

Values = dict[str, Any]
Rows = Iterable[tuple[int, Values]]

_PACKED = ('[{"', "[{'", '["')  # lists in the cells of a spreadsheet, as JSON or as Python writes them
_MOST_VALUES, _LONGEST_VALUE = 1000, 80  # of the distinct values that a profile keeps


@dataclass(frozen=True)
class Table:
    """Rows that can be read several times: they stay in their file."""

    name: str  # file path, or hub id and split
    unit: str  # what the row numbers count, from 1: "line", "row" or "item"
    rows: Rows  # number, and values by column, in lower case
    title: str = ""  # decides whether the table is held out: split, or path without its suffix
    container: str = ""  # as in "csv (;), gzip"
    encoding: str = ""
    header: bool = True  # the names of the columns are from the file

    def renamed(self, sources: Mapping[str, str]) -> Table:
        """The table with columns under other names: new name to present name, or path as in fields.text."""
        return replace(self, rows=_Renamed(self.rows, sources)) if sources else self


@dataclass(frozen=True)
class _Renamed:
    rows: Rows
    sources: Mapping[str, str]

    def __iter__(self) -> Iterator[tuple[int, Values]]:
        taken = set(self.sources) | set(self.sources.values())
        for number, values in self.rows:
            kept = {name: value for name, value in values.items() if name not in taken}
            for name, source in self.sources.items():
                if (value := _at(values, source)) is not _MISSING:
                    kept[name] = value
            yield number, kept


_MISSING = object()


def _at(values: Any, path: str) -> Any:
    """The value of a column, or inside it: a.b is b in the object a."""
    if isinstance(values, dict) and path in values:
        return values[path]
    first, dot, rest = path.partition(".")
    return _at(values[first], rest) if dot and isinstance(values, dict) and first in values else _MISSING


@dataclass
class Column:
    """What a column holds."""

    kinds: set[type] = field(default_factory=set)  # of the values that are not missing
    values: set[Any] = field(default_factory=set)  # the first 1000 distinct short ones
    filled: int = 0  # values that are not missing or blank
    numeric: bool = True  # every filled value is a finite number
    many: bool = False  # there are more values than `values` has

    def add(self, value: Any) -> None:
        """Count one value."""
        if value is None or value == "":
            return
        known = (self.many and not self.numeric) or (isinstance(value, (str, int, float)) and value in self.values)
        if known and type(value) in self.kinds:  # nothing is learned from one more
            self.filled += 1
            return
        packed = isinstance(value, str) and value.startswith(_PACKED)
        self.kinds.add(list if packed else type(value))
        self.filled += 1
        if self.numeric and not is_number(value):
            self.numeric = False
        if not self.many and isinstance(value, (str, int, float)):
            if isinstance(value, str) and len(value) > _LONGEST_VALUE:
                return
            self.values.add(value)
            self.many = len(self.values) >= _MOST_VALUES

    @property
    def lists(self) -> bool:
        """Whether the values are lists."""
        return self.kinds == {list}


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, or text that is one."""
    try:
        return isinstance(value, (int, float, str)) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def profile(table: Table) -> tuple[dict[str, Column], int]:
    """The columns of a table, which are those that any of its rows has, and the number of rows.

    Raises:
        DataError: there is no row.
    """
    columns: dict[str, Column] = {}
    count = 0
    for _, values in table.rows:
        count += 1
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = Column()
            column.add(value)
    if not count:
        raise DataError(f"{table.name}: no rows")
    return columns, count


def shown(names: Iterable[Any]) -> str:
    """The first of several names, shortened, in quotes."""
    names = list(names)
    return ", ".join(reprlib.repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "") or "none"


def clean_names(where: str, header: Sequence[str]) -> tuple[str, ...]:
    """The names of columns in lower case, which must differ. Spreadsheets add columns without a name."""
    columns = tuple(name.strip().lower() for name in header)
    repeated = [c for c in columns if c and columns.count(c) > 1]
    if repeated:
        raise DataError(f"{where}: two columns have the name {reprlib.repr(repeated[0])}; rename one")
    return columns


@dataclass(frozen=True)
class Reading:
    """How one table was read."""

    name: str
    container: str
    encoding: str
    role: str  # "training", "held out", or "left out"
    layout: str
    why: str  # the columns that decided
    used: tuple[str, ...]
    ignored: tuple[str, ...]
    labels: str  # how labels were read, "" without labels
    rows: int
    records: int
    dropped: dict[str, int]  # rows by reason, before duplicates are removed
