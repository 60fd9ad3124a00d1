"""Tables from files: tsv, csv, jsonl, json and parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plaudit.data.columns import READ, Table, Values
from plaudit.errors import DataError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
DELIMITERS = (",", ";", "\t")  # of csv files; spreadsheets write all three

Lines = Iterator[tuple[int, list[str]]]


def data_files(path: Path) -> list[Path]:
    """`path` itself, or the data files directly in the folder `path`, sorted by name."""
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{path}: unknown format; the name of a data file ends in {', '.join(SUFFIXES)}, and its columns are "
                f"{READ}"
            )
        return [path]
    try:
        names = sorted(p for p in path.iterdir() if p.name[0] != ".")
        found = [p for p in names if p.suffix.lower() in SUFFIXES and p.is_file() and not _describes(p)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        there = ", ".join(reprlib.repr(p.name) for p in names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(
            f"{path}: no data files in this folder, whose names end in {', '.join(SUFFIXES)}; found "
            f"{there or 'nothing'}"
        )
    return found


def _describes(path: Path) -> bool:
    """Whether this is a description that comes with data sets from the hub, such as dataset_info.json."""
    return path.suffix.lower() == ".json" and path.stem.lower().startswith(("dataset_", "dataset-", "config"))


def read(path: Path) -> Table:
    """The table in a file, named by its path."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    text = _decoded(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: has a NUL character; save the file as UTF-8 text")
    if suffix in (".jsonl", ".json"):
        return _json(path, text)
    return _table(path, tsv_lines(text) if suffix == ".tsv" else _csv_lines(path, text))


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it begins with a byte order mark."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if utf16 else "utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)  # error.object lacks the byte order mark
        line = raw.count(b"\n", 0, at) + 1
        found = "UTF-16, although it begins like it" if utf16 else "UTF-8"
        raise DataError(f"{path}, line {line}: byte {at} is not {found}; save the file as UTF-8") from None


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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1  # a quoted cell can span several lines
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: not CSV: {error}") from None


def _delimiter(text: str) -> str:
    """The one of DELIMITERS that cuts the header into most cells; a comma, if several do."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _names(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns in lower case, which must differ. Spreadsheets add columns without a name."""
    columns = tuple(name.strip().lower() for name in header)
    repeated = [c for c in columns if c and columns.count(c) > 1]
    if repeated:
        raise DataError(f"{path}: two columns have the name {reprlib.repr(repeated[0])}; rename one")
    return columns


def _table(path: Path, lines: Lines) -> Table:
    """The rows below the header. Rows and columns of which all cells are blank are none."""
    filled = ((number, cells) for number, cells in lines if any(cell.strip() for cell in cells))
    columns = _names(path, next(filled, (0, []))[1])
    width = max((i for i, name in enumerate(columns, start=1) if name), default=0)
    rows: list[tuple[int, Values]] = []
    for number, cells in filled:
        if len(cells) < width or any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(f"{path}, line {number}: {len(cells)} cells, but the header has {len(columns)}")
        rows.append((number, {name: cell for name, cell in zip(columns, cells, strict=False) if name}))
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    return Table(str(path), "line", tuple(filter(None, columns)), rows)


def _json(path: Path, text: str) -> Table:
    """A list of objects, or one object a line. A table has every column that one of its objects has."""
    rows: list[tuple[int, Values]] = []
    listed = text.lstrip().startswith("[") and path.suffix.lower() == ".json"
    values = _parsed(path, [(1, text)] if listed else _lines(text))
    if listed:
        values = enumerate(next(values)[1], start=1)
    unit = "item" if listed else "line"
    for number, value in values:
        if not isinstance(value, dict):
            raise DataError(
                f'{path}, {unit} {number}: {reprlib.repr(value)} is not an object such as {{"text": "..."}}'
            )
        try:
            rows.append((number, dict(zip(_names(path, list(value)), value.values(), strict=True))))
        except DataError as error:
            raise DataError(str(error).replace(f"{path}:", f"{path}, {unit} {number}:", 1)) from None
    if not rows:
        raise DataError(f"{path}: no rows")
    return Table(str(path), unit, tuple(dict.fromkeys(name for _, values in rows for name in values)), rows)


def _parsed(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            hint = "; write each object on one line" if line.strip() in ("{", "[") else ""
            raise DataError(f"{path}, line {number}: not JSON: {error}{hint}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values for {reprlib.repr(next(n for n in names if names.count(n) > 1))}")
    return found


def _parquet(path: Path) -> Table:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        columns = _names(path, table.column_names)
        rows = table.rename_columns(columns).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # also values Python cannot hold
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as parquet: {reason}") from None
    if not rows:
        raise DataError(f"{path}: no rows")
    name_labels(rows, _label_names(table.schema.metadata))
    return Table(str(path), "row", columns, list(enumerate(rows, start=1)))


def _label_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    """The names of the labels 0, 1, ... that the library `datasets` writes into a parquet file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return next(feature["names"] for name, feature in features.items() if name.strip().lower() == "label")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return []


def name_labels(rows: list[Values], names: Sequence[str]) -> None:
    """Replace the numbers of labels by the names that the data set gives them, because 0 can mean positive."""
    words = dict(enumerate(names))
    for values in rows:
        if isinstance(label := values.get("label"), int) and label in words:  # -1 and null are not
            values["label"] = words[label]
