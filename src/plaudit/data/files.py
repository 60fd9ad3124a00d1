"""Tables out of files: tsv, csv, jsonl and parquet."""

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
_LONGEST_FIELD = 2**31 - 1  # the csv module refuses fields over 128 KiB unless told otherwise

Lines = Iterator[tuple[int, list[str]]]


def data_files(path: Path) -> list[Path]:
    """`path` itself, or the data files right inside a folder, by name.

    Raises:
        DataError: no data file there, or of a format that is not read.
    """
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: files of data end in {', '.join(SUFFIXES)}")
        return [path]
    try:
        inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    files = [p for p in inside if p.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{path}: no data files in this folder; they end in {', '.join(SUFFIXES)}")
    return files


def read(path: Path) -> Table:
    """The table in one file; its name is the path, as errors give it.

    Raises:
        DataError: the file cannot be read, is empty, is not UTF-8, or a line does not fit the format.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    text = _utf8(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if suffix == ".jsonl":
        return _jsonl(path, text)
    return _table(path, _tsv_lines(text) if suffix == ".tsv" else _csv_lines(path, text))


def _utf8(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        # error.object is what was decoded: the mark, if any, is already gone from it.
        skipped = len(raw) - len(error.object)
        line = raw.count(b"\n", 0, skipped + error.start) + 1
        raise DataError(f"{path}, line {line}: byte {skipped + error.start} is not UTF-8; save it as UTF-8") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank. Not splitlines: that also breaks at characters a review may well contain."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _tsv_lines(text: str) -> Lines:
    """TSV as in GLUE: a quote is an ordinary character."""
    for number, line in _lines(text):
        yield number, line.split("\t")


def _csv_lines(path: Path, text: str) -> Lines:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1  # a quoted cell may run over several lines
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: not CSV: {error}") from None


def _table(path: Path, lines: Lines) -> Table:
    _, header = next(lines)
    columns = tuple(name.strip().lower() for name in header)
    twice = [c for c in columns if c and columns.count(c) > 1]
    if twice:
        raise DataError(f"{path}: two columns are named {reprlib.repr(twice[0])}")
    rows: list[tuple[int, Values]] = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DataError(f"{path}, line {number}: {len(cells)} cells where the header has {len(columns)}")
        rows.append((number, dict(zip(columns, cells, strict=True))))
    if not rows:
        raise DataError(f"{path}: a header and no rows")
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
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from None
    if not table.num_rows:
        raise DataError(f"{path}: a header and no rows")
    table = table.rename_columns([name.strip().lower() for name in table.column_names])
    return Table(str(path), "row", tuple(table.column_names), list(enumerate(table.to_pylist(), start=1)))
