"""Rows from JSON: an object a line, a list of objects, objects one after the other, or an object that holds them."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from plaudit.data.encodings import Text
from plaudit.data.tables import Values, clean_names, shown
from plaudit.errors import DataError

_Rows = Callable[[], Iterator[tuple[int, Values]]]


def json_rows(name: str, text: Text, by_line: bool = False) -> tuple[str, str, _Rows]:
    """The kind of JSON, what the rows are called, and the rows.

    Args:
        name: for messages.
        text: of the file.
        by_line: the name of the file says that each line is a row, even if there is only one.

    Raises:
        DataError: it is not JSON.
    """
    if _is_by_line(text):
        checked = False

        def objects() -> Iterator[tuple[int, Values]]:
            nonlocal checked
            yield from _objects(name, "line", _lines(name, text, None if checked else _object))
            checked = True  # the next reading takes less time

        return "jsonl", "line", objects
    with text.open("\n") as file:
        values = _documents(name, file.read())
    if len(values) > 1:
        return "json objects", "object", lambda: _objects(name, "object", enumerate(values, start=1))
    is_row = isinstance(values[0], dict) and (_is_task(values[0]) or (by_line and len(values[0]) > 1))
    key, items = ("", values) if is_row else _unwrapped(name, values[0])
    return f"json{key}", "item", lambda: _objects(name, "item", enumerate(items, start=1))


def _is_by_line(text: Text) -> bool:
    """Whether the first of several lines is a whole value."""
    lines = (line for _, line in text.lines())
    first = next(lines)
    if first.lstrip().startswith("["):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return next(lines, None) is not None


def _lines(name: str, text: Text, check: Callable[[list[tuple[str, Any]]], Any] | None) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=check)
    for number, line in text.lines():
        try:
            # raw_decode knows no space around a value, and takes two thirds of the time of decode.
            value, end = decoder.raw_decode(line) if line[0] == "{" else (None, 0)
            yield number, value if end == len(line) else decoder.decode(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: not JSON: {error}") from None


def _documents(name: str, text: str) -> list[Any]:
    """The values that follow each other in a text."""
    decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode
    found, space = [], re.compile(r"\s*")
    at = space.match(text).end()  # type: ignore[union-attr]
    while at < len(text):
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise DataError(f"{name}, line {line}: not JSON: {error}") from None
        found.append(value)
        at = space.match(text, at).end()  # type: ignore[union-attr]
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values for {reprlib.repr(next(n for n in names if names.count(n) > 1))}")
    return found


def _objects(name: str, unit: str, values: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Values]]:
    """Rows, with the names of columns in lower case."""
    clean: dict[tuple[str, ...], tuple[str, ...]] = {}
    number = 0
    for number, value in values:
        if not isinstance(value, dict):
            raise DataError(
                f'{name}, {unit} {number}: {reprlib.repr(value)} is not an object such as {{"text": "..."}}'
            )
        given = tuple(value)
        if given not in clean:
            clean[given] = clean_names(f"{name}, {unit} {number}", given)
        columns = clean[given]
        yield number, value if columns == given else dict(zip(columns, value.values(), strict=True))
    if not number:
        raise DataError(f"{name}: no rows")


def _unwrapped(name: str, value: Any) -> tuple[str, list[Any]]:
    """The objects in a list, under the one key of an object that has a list, or in columns, as pandas writes them."""
    if isinstance(value, list):
        return "", value
    if not isinstance(value, dict):
        return "", [value]
    lists = {key: inner for key, inner in value.items() if _is_table(inner)}
    if len(lists) == 1:
        key = next(iter(lists))
        return f" ({key})", lists[key]
    if len(lists) > 1:
        raise DataError(f"{name}: several lists of rows ({shown(lists)}): write each to a file of its own")
    columns = [list(inner.values()) if isinstance(inner, dict) else inner for inner in value.values()]
    if len(columns) > 1 and all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
        rows = zip(*columns, strict=True)
        if columns[0] and not any(isinstance(cell, (dict, list)) for column in columns for cell in column):
            return " (columns)", [dict(zip(value, row, strict=True)) for row in rows]
    return "", [value]


def _is_task(value: dict[str, Any]) -> bool:
    """Whether this is a task of Label Studio, whose annotations are no table."""
    return isinstance(value.get("data"), dict) and isinstance(value.get("annotations"), list)


def _is_table(value: Any) -> bool:
    """Whether this is a list of objects that are not the turns of a conversation."""
    objects = isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    return objects and not any({"role", "from"} & set(one) for one in value)
