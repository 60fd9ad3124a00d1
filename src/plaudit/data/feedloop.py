"""The database of feedloop: pairs of responses, and what was chosen."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from plaudit.data.files import Source
from plaudit.data.replies import UNUSED
from plaudit.data.tables import Values
from plaudit.errors import DataError

MAGIC = b"SQLite format 3\x00"  # the beginning of the file


def rows(path: Path, name: str = "") -> list[Values]:
    """A row for each pair. Where it was skipped or not compared, there is no choice.

    Raises:
        DataError: it is another database.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        found = []
        for row in connection.execute("SELECT * FROM comparisons ORDER BY created_at, id"):
            is_voted = row["status"] == "completed" and row["chosen"] in ("a", "b")
            at = datetime.fromisoformat(row["completed_at"]).timestamp() if row["completed_at"] else None
            texts = {"prompt": row["prompt"], "response_a": row["output_a"], "response_b": row["output_b"]}
            choice = row["chosen"] if is_voted else None
            found.append(texts | {"choice": choice, "left": row["display_order"][0], "at": at})
        return found
    except (sqlite3.Error, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{name or path}: not a database of feedloop: {error}") from None
    finally:
        connection.close()


def votes(source: Source) -> Iterator[tuple[int, Values]]:
    """The pairs as rows of the layout "votes of an annotation tool"."""
    with tempfile.TemporaryDirectory() as folder, source.open() as file:
        copy = Path(folder) / "feedloop.db"  # a database in an archive has no path
        copy.write_bytes(file.read())
        found = rows(copy, source.name)
    for number, row in enumerate(found, start=1):
        texts = {name: row[name] for name in ("prompt", "response_a", "response_b", "choice")}
        yield number, texts | {UNUSED: None if row["choice"] else "unlabelled"}
