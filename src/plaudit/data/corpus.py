"""A data set by its name: built in, in files, or on the hub."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from plaudit.config import nearest
from plaudit.data import embedded, files, hub
from plaudit.data.columns import Table, records
from plaudit.data.splits import Splits, split
from plaudit.errors import DataError

BUILT_IN = ("movie-reviews",)

# 'test-00000-of-00001' and 'dev_matched' are held out; 'testimonials' and 'device' are not.
_HELD_OUT = re.compile(r"(validation|valid|val|development|dev|test|evaluation|eval)(?![a-z])")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(name: str) -> Splits:
    """The data set `name`, cut into train, prompts and evaluation.

    Args:
        name: "movie-reviews", the path of a file or folder (tsv, csv, jsonl, parquet), or a hub id
            ("owner/name"). Among several files, or splits of the hub, those named validation, dev, test or
            eval are the evaluation part.

    Raises:
        DataError: nothing has this name, or what it holds cannot be learned from.
    """
    if name in BUILT_IN:
        return split(name, embedded.rotten_tomatoes(), [], Counter())
    path = Path(os.path.expanduser(name))
    if os.path.exists(os.path.expanduser(name)):
        return _from_tables(name, [(file.stem, files.read(file)) for file in files.data_files(path)])
    if name.startswith((".", "/", "~")) or path.suffix.lower() in files.SUFFIXES:
        raise DataError(f"{name}: no such file or folder")
    if _HUB_ID.fullmatch(name):
        return _from_tables(name, list(hub.tables(name).items()))
    raise DataError(
        f"no data set '{name}'{nearest(name, list(BUILT_IN))}; data is one of: {', '.join(BUILT_IN)}; "
        "the path of a file or folder; a hub id such as 'stanfordnlp/sst2'"
    )


def _from_tables(name: str, tables: list[tuple[str, Table]]) -> Splits:
    """Cut a data set out of tables, each with the name that tells training from evaluation."""
    given = [table for title, table in tables if not _HELD_OUT.match(title.lower())]
    held_out = [table for title, table in tables if _HELD_OUT.match(title.lower())]
    if not given:  # nothing but a test split: it is all there is to learn from
        given, held_out = held_out, []
    dropped: Counter[str] = Counter()
    return split(name, records(given, dropped), records(held_out, dropped), dropped)
