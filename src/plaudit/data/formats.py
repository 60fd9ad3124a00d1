"""Tables from the bytes of files: tsv, csv, jsonl, json, parquet, arrow, fastText and plain lines."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plaudit.data import feedloop
from plaudit.data.encodings import Text, encoding_of, encoding_of_texts
from plaudit.data.files import Source, reading, sources
from plaudit.data.json_rows import json_rows
from plaudit.data.tables import Table, Values, clean_names
from plaudit.errors import DataError

DELIMITERS = (",", ";", "\t")  # of csv files; spreadsheets write all three
_BATCH = 1024  # rows of a parquet file
_FASTTEXT = re.compile(r"((?:__label__\S+\s+)+)(.*)", re.DOTALL)
_PEEK = 200  # rows that decide whether a file has a header
_TAB = "\t"

Cells = Iterable[tuple[int, list[str]]]


@dataclass(frozen=True)
class Rows:
    """Rows that are read from their file again each time."""

    name: str
    read: Callable[[], Iterator[tuple[int, Values]]]

    def __iter__(self) -> Iterator[tuple[int, Values]]:
        with reading(self.name):
            yield from self.read()


def read(path: Path) -> Table:
    """The one table in a file, named by its path."""
    return table(sources(path)[0])


def table(source: Source, known: frozenset[str] = frozenset()) -> Table:
    """The table of a source.

    Args:
        source: where its bytes are.
        known: names of columns that decide whether the first line is a header.
    """
    with reading(source.name):
        found = _table(source, known)
    found = replace(found, title=source.title, container=", ".join(filter(None, (found.container, source.packed))))
    if source.names:
        rows = found.rows
        found = replace(found, rows=Rows(source.name, lambda: _named(rows, source.names)))
    return found


def _table(source: Source, known: frozenset[str]) -> Table:
    if source.texts:
        page, count = encoding_of_texts(source)
        encoding = f"utf-8; {page} in {count:,} of {len(source.texts):,} files" if count else "utf-8"
        rows = Rows(source.name, lambda: _texts(source, page))
        return Table(source.name, "file", rows, "", "a folder of texts", encoding)
    with source.open() as file:
        magic = file.read(64)
    if magic.startswith(b"version https://git-lfs"):
        raise DataError(f"{source.name}: a pointer of Git LFS and not the data: fetch it with git lfs pull")
    if magic.startswith(feedloop.MAGIC):
        rows = Rows(source.name, lambda: feedloop.votes(source))
        return Table(source.name, "row", rows, "", "a database of feedloop")
    if source.suffix in (".parquet", ".arrow") or magic.startswith(b"PAR1"):
        return _columnar(source)
    encoding = encoding_of(source)
    text = Text(source, encoding)
    if source.label:
        return Table(source.name, "line", Rows(source.name, lambda: _plain(text, source.label)), "", "lines", encoding)
    first = next(text.lines())[1]
    if source.suffix in (".jsonl", ".json", ".ndjson") or (source.suffix not in (".csv", ".tsv") and _is_json(first)):
        kind, unit, objects = json_rows(source.name, text, by_line=source.suffix in (".jsonl", ".ndjson"))
        return Table(source.name, unit, Rows(source.name, objects), "", kind, encoding)
    if first.startswith("__label__"):
        return _fasttext(source, text)
    if source.suffix in (".csv", ".tsv"):
        return _delimited(source, text, known, ".tsv" if source.suffix == ".tsv" else ".csv")
    for kind, delimiters in ((".tsv", "\t"), (".csv", ",;")):  # a table whose name does not say so
        if any({cell.strip(' "').lower() for cell in first.split(d)} & known and d in first for d in delimiters):
            return _delimited(source, text, known, kind)
    return Table(source.name, "line", Rows(source.name, lambda: _plain(text)), "", "one text a line", encoding)


def _plain(text: Text, label: str = "") -> Iterator[tuple[int, Values]]:
    """One text a line; all lines have the label."""
    for number, line in text.lines():
        yield number, {"text": line, "label": label} if label else {"text": line}


def _is_json(line: str) -> bool:
    return bool(re.match(r'\s*(\{\s*("|$)|\[\s*(\{|$))', line))


def tsv_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """TSV as in GLUE: a quote is an ordinary character."""
    lines = enumerate(text.split("\n"), start=1)
    return ((number, line.removesuffix("\r").split("\t")) for number, line in lines if line.strip())


# Delimited text


def _delimited(source: Source, text: Text, known: frozenset[str], kind: str) -> Table:
    delimiter, skipped = (_TAB, 0) if kind == ".tsv" else _delimiter(text)

    def filled() -> Iterator[tuple[int, list[str]]]:
        """Rows of which a cell is not blank."""
        cells = _tsv(text) if kind == ".tsv" else _csv(source.name, text, delimiter, skipped)
        return ((number, row) for number, row in cells if any(cell.strip() for cell in row))

    invented = _headerless([row for _, row in itertools.islice(_stopping(filled()), _PEEK)], known)
    container = f"{kind[1:]} ({'tab' if delimiter == _TAB else delimiter})" + (
        "" if invented is None else ", no header"
    )
    rows = Rows(source.name, lambda: _rows(source.name, filled(), invented))
    return Table(source.name, "line", rows, "", container, text.encoding, invented is None)


def _tsv(text: Text) -> Iterator[tuple[int, list[str]]]:
    """TSV as in GLUE: a quote is an ordinary character."""
    return ((number, line.split("\t")) for number, line in text.lines())


def _stopping(rows: Iterator[Any]) -> Iterator[Any]:
    """Rows up to the first that cannot be read, which is reported later."""
    try:
        yield from rows
    except DataError:
        return


def _csv(name: str, text: Text, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # characters; the default is 128 Ki
    with text.open("") as file:
        for _ in range(skipped):
            file.readline()
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        start = skipped + 1
        try:
            for cells in reader:
                if cells:
                    yield start, cells
                start = skipped + reader.line_num + 1  # a quoted cell can span several lines
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: not CSV: {error}") from None


def _delimiter(text: Text) -> tuple[str, int]:
    """The delimiter, and the number of lines before the header.

    A line `sep=;` names it; otherwise it is the one that cuts the header into most cells, or a comma if several do.
    """
    with text.open("") as file:
        skipped = 0
        header = ""
        for line in file:
            header = line.rstrip("\r\n")
            if header:
                break
            skipped += 1
    if (named := re.fullmatch(r'"?sep=(.)"?', header)) is not None:
        return named[1], skipped + 1
    counts = {delimiter: len(next(csv.reader([header], delimiter=delimiter), [])) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=lambda delimiter: counts[delimiter]), 0


def _rows(name: str, filled: Cells, columns: Sequence[str] | None) -> Iterator[tuple[int, Values]]:
    """The rows below the header, or below the beginning. Rows and columns of which all cells are blank are none."""
    filled = iter(filled)
    if columns is None:
        columns = clean_names(name, next(filled, (0, []))[1])
    width = max((i for i, column in enumerate(columns, start=1) if column), default=0)
    named = [(i, column) for i, column in enumerate(columns) if column]
    count = 0
    for number, cells in filled:
        count += 1
        if len(cells) < width or (len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :])):
            raise DataError(f"{name}, line {number}: {len(cells)} cells, but the header has {len(columns)}")
        yield number, {column: cells[i] for i, column in named}
    if not count:
        raise DataError(f"{name}: no rows below the header")


def _headerless(rows: list[list[str]], known: frozenset[str]) -> list[str] | None:
    """Names for the columns of a file that has no header: of Yelp, Amazon or Sentiment140, or label and text.

    None if the first row is a header, or if nothing tells which column is the label.
    """
    if not rows or {cell.strip().lower() for cell in rows[0]} & known:
        return None
    width = max((i for i, cell in enumerate(rows[0], start=1) if cell.strip()), default=0)
    labels = [{row[i].strip().lower() for row in rows if len(row) > i} for i in range(width)]

    def is_label(place: int, allowed: set[str]) -> bool:
        return rows[0][place].strip().lower() in allowed and labels[place] <= allowed

    words = {"0", "1", "negative", "positive", "neg", "pos", "neutral", "true", "false"}
    if width == 6 and is_label(0, {"0", "2", "4"}):
        return ["label", "id", "date", "query", "user", "text"]
    if width in (2, 3) and (is_label(0, words) or is_label(0, {"1", "2", "3", "4", "5"})):
        return ["label", "text"] if width == 2 else ["label", "title", "text"]
    if width == 2 and is_label(1, words):
        return ["text", "label"]
    return None


def _fasttext(source: Source, text: Text) -> Table:
    def rows() -> Iterator[tuple[int, Values]]:
        for number, line in text.lines():
            if (parts := _FASTTEXT.fullmatch(line)) is None:
                raise DataError(f"{source.name}, line {number}: does not begin with __label__ and a space")
            yield number, {"label": [word.removeprefix("__label__") for word in parts[1].split()], "text": parts[2]}

    return Table(source.name, "line", Rows(source.name, rows), "", "fastText", text.encoding, header=False)


def _texts(source: Source, page: str) -> Iterator[tuple[int, Values]]:
    for number, (label, opened) in enumerate(source.texts, start=1):
        with opened() as file:
            raw = file.read()
        try:
            content = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            content = raw.decode(page)
        yield number, {"text": content, "label": label}


def _columnar(source: Source) -> Table:
    """Parquet, or the Arrow files that the library `datasets` saves; the rows stay in the file."""
    import pyarrow

    def opened() -> Any:
        return pyarrow.memory_map(source.name) if _is_path(source) else _in_memory(source)

    def rows() -> Iterator[tuple[int, Values]]:
        number = 0
        try:
            with opened() as file:
                schema, batches = _batches(source, file)
                columns = clean_names(source.name, schema.names)
                names = _class_names(schema.metadata)
                for batch in batches:
                    lists = [_with_names(batch.column(i).to_pylist(), names.get(c)) for i, c in enumerate(columns)]
                    for values in zip(*lists, strict=True):
                        number += 1
                        yield number, dict(zip(columns, values, strict=True))
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # also values Python cannot hold
            kind = "arrow" if source.suffix == ".arrow" else "parquet"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{source.name}: cannot be read as {kind}: {reason}") from None
        if not number:
            raise DataError(f"{source.name}: no rows")

    return Table(source.name, "row", Rows(source.name, rows), container=source.suffix[1:] or "parquet")


def _is_path(source: Source) -> bool:
    return not source.packed and Path(source.name).is_file()


def _in_memory(source: Source) -> Any:
    import pyarrow

    with source.open() as file:
        return pyarrow.BufferReader(file.read())


def _batches(source: Source, file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the rows of a file, a part after the other."""
    if source.suffix == ".arrow":
        import pyarrow.ipc

        stream = pyarrow.ipc.open_stream(file)
        return stream.schema, iter(stream)
    import pyarrow.parquet

    whole = pyarrow.parquet.ParquetFile(file)
    return whole.schema_arrow, whole.iter_batches(batch_size=_BATCH)


def _with_names(values: list[Any], names: list[str] | None) -> list[Any]:
    """Numbers of labels as the names that the data set gives them, because 0 can mean positive."""
    if not names:
        return values
    words = dict(enumerate(names))  # -1 and null are not in it
    return [words.get(v, v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the labels 0, 1, ... by column, which the library `datasets` writes into a file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {n.strip().lower(): f["names"] for n, f in features.items() if isinstance(f, dict) and f.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(rows: Iterable[tuple[int, Values]], names: dict[str, list[str]]) -> Iterator[tuple[int, Values]]:
    """Rows with the numbers of labels replaced by their names; in text files the numbers are text."""
    words = {column: {str(i): name for i, name in enumerate(some)} for column, some in names.items()}
    for number, values in rows:
        for column, word in words.items():
            if isinstance(value := values.get(column), (int, str)) and not isinstance(value, bool):
                values[column] = word.get(str(value), value)
        yield number, values
