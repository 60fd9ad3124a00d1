"""All rollouts of a stage: an index of where each line begins, so that a page reads only what it shows."""

from __future__ import annotations

import json
import math
import threading
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.monitor.reading import number, parsed

PAGE = 50
SORTS = {"": "in order", "score": "score", "kl": "KL", "length": "length"}


@dataclass(frozen=True)
class Found:
    """A page of rollouts."""

    rows: list[dict[str, Any]]
    count: int
    page: int
    pages: int
    iterations: tuple[int, int] | None  # the first and the last


class Rollouts:
    """The rollouts of one file, which may be growing."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._end, self._file, self._head = 0, -1, b""
        self._offsets, self._iterations = array("q"), array("q")
        self._figures = {name: array("d") for name in SORTS if name}

    def __len__(self) -> int:
        return len(self._offsets)

    def update(self) -> None:
        """Index what has been written since the last time; everything, if the file was cut back or replaced."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    size, node, head = file.seek(0, 2), self._path.stat().st_ino, b""
                    file.seek(0)
                    head = file.read(min(64, size))
                    if size < self._end or node != self._file or head[: len(self._head)] != self._head:
                        self._begin()
                        self._file = node
                    self._head = head
                    file.seek(self._end)
                    for line in file:
                        if not line.endswith(b"\n"):  # it is being written
                            break
                        self._add(line)
                        self._end += len(line)
            except OSError:
                self._begin()

    def _add(self, line: bytes) -> None:
        row = parsed(line)
        if not isinstance(row, dict):
            return
        self._offsets.append(self._end)
        iteration = number(row.get("iteration"))
        self._iterations.append(int(iteration or 0))
        for name, column in self._figures.items():
            value = number(row.get(name))
            column.append(math.nan if value is None else value)

    def find(
        self, iteration: int | None = None, sort: str = "", descending: bool = True, text: str = "", page: int = 1
    ) -> Found:
        """Those of an iteration, or of all, that have a text; those without a figure come last."""
        self.update()
        with self._lock:
            chosen = [i for i in range(len(self)) if iteration is None or self._iterations[i] == iteration]
            iterations = (min(self._iterations), max(self._iterations)) if len(self) else None
            if sort in self._figures:
                column, sign = self._figures[sort], -1.0 if descending else 1.0
                chosen.sort(key=lambda i: (math.isnan(column[i]), sign * column[i] if column[i] == column[i] else 0.0))
            offsets = [self._offsets[i] for i in chosen]
        try:
            with self._path.open("rb") as file:
                if text:
                    offsets = [offset for offset in offsets if _has(_line(file, offset), text)]
                pages = max(1, -(-len(offsets) // PAGE))
                page = min(max(1, page), pages)
                rows = [parsed(_line(file, offset)) for offset in offsets[PAGE * (page - 1) : PAGE * page]]
        except OSError:
            return Found([], 0, 1, 1, None)
        return Found([r for r in rows if isinstance(r, dict)], len(offsets), page, pages, iterations)


def _line(file: Any, offset: int) -> bytes:
    file.seek(offset)
    return file.readline()


def _has(line: bytes, text: str) -> bool:
    """Whether a line's prompt or response has a text; most lines are told apart without reading them as JSON."""
    quick = json.dumps(text)[1:-1]
    if text.isascii() and quick == text and text.lower().encode() not in line.lower():
        return False
    row = parsed(line)
    if not isinstance(row, dict):
        return False
    return any(text.lower() in str(row.get(name, "")).lower() for name in ("prompt", "response"))
