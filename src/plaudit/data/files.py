"""Tables from files: tsv, csv, jsonl and parquet."""

from __future__ import annotations

import csv
import io
import json
import reprlib
from collections.abc import Iterator
from pathlib import Path

from plaudit.data.columns import Table, Values
from plaudit.errors import DataError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")

Lines = Iterator[tuple[int, list[str]]]


def data_files(path: Path) -> list[Path]:
    """`path` itself, or the data files directly in the folder `path`, sorted by name."""
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: unknown format; the name of a data file ends in {', '.join(SUFFIXES)}")
        return [path]
    try:
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != "."]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        raise DataError(f"{path}: no data files in this folder; their names end in {', '.join(SUFFIXES)}")
    return sorted(found)


def read(path: Path) -> Table:
    """The table in a file, named by its path."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    text = _utf8(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if suffix == ".jsonl":
        return _jsonl(path, text)
    return _table(path, tsv_lines(text) if suffix == ".tsv" else _csv_lines(path, text))


def _utf8(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)  # error.object lacks the byte order mark
        line = raw.count(b"\n", 0, at) + 1
        raise DataError(f"{path}, line {line}: byte {at} is not UTF-8; save the file as UTF-8") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. str.splitlines would also split at U+0085, U+2028 and others."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def tsv_lines(text: str) -> Lines:
    """TSV as in GLUE: a quote is an ordinary character."""
    return ((number, line.split("\t")) for number, line in _lines(text))


def _csv_lines(path: Path, text: str) -> Lines:
    csv.field_size_limit(2**31 - 1)  # characters; the default is 128 Ki
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1  # a quoted cell can span several lines
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: not CSV: {error}") from None


def _table(path: Path, lines: Lines) -> Table:
    _, header = next(lines)
    columns = tuple(name.strip().lower() for name in header)
    repeated = [c for c in columns if c and columns.count(c) > 1]
    if repeated:
        raise DataError(f"{path}: two columns have the name {reprlib.repr(repeated[0])}; rename one")
    rows: list[tuple[int, Values]] = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DataError(f"{path}, line {number}: {len(cells)} cells, but the header has {len(columns)}")
        rows.append((number, dict(zip(columns, cells, strict=True))))
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    return Table(str(path), "line", columns, rows)


def _jsonl(path: Path, text: str) -> Table:
    rows: list[tuple[int, Values]] = []
    for number, line in _lines(text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f'{path}, line {number}: {reprlib.repr(value)} is not an object such as {{"text": "..."}}')
        rows.append((number, {name.strip().lower(): v for name, v in value.items()}))
    return Table(str(path), "line", tuple(rows[0][1]), rows)


def _parquet(path: Path) -> Table:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    table = table.rename_columns([name.strip().lower() for name in table.column_names])
    return Table(str(path), "row", tuple(table.column_names), list(enumerate(table.to_pylist(), start=1)))
