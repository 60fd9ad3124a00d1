"""Which layout a table has, and its records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from plaudit.data.columns import Row, Unusable
from plaudit.data.hashed import Record
from plaudit.data.labels import Meaning, meaning
from plaudit.data.layouts import LABEL, LAYOUTS, TEXT, Layout
from plaudit.data.splits import UNLABELLED_TABLE
from plaudit.data.tables import Column, Reading, Table, profile, shown
from plaudit.errors import DataError

READ = (
    "text or review, alone or with label; prompt, alone or with response (or completion); messages; "
    "instruction and output; chosen and rejected; and those in docs/data.md"
)
_QUESTIONS = ("question", "instruction", "query", "input", "context", "history", "system")  # would belong to a prompt
_SCORES = ("label", "rating", "score", "reward", "stars")
_COUNTS = re.compile(r".*(id|idx|index|count|length|len|tokens|turns?|year|seed|version)|(n|num|is|has)_.*|redacted|")
_KEPT = 1000  # labels that are shown or compared at most


@dataclass(frozen=True)
class Match:
    """A layout that fits a table."""

    layout: Layout
    names: dict[str, str]  # columns of the table by the names that the layout uses
    doubts: tuple[tuple[str, ...], ...]  # columns of which any could be the one that the layout needs

    @property
    def explained(self) -> set[str]:
        """The columns that the layout reads or knows."""
        return set(self.names.values())

    @property
    def needed(self) -> list[str]:
        """The columns that decide."""
        return [self.names[_key(need)[0]] for need in self.layout.needs]


@dataclass(frozen=True)
class Recognised:
    """A table with its layout."""

    table: Table
    columns: dict[str, Column]
    rows: int
    match: Match

    @property
    def label_column(self) -> str:
        """The column that the labels are called after."""
        return self.match.names.get("label", "label")

    def labels(self) -> list[object]:
        """The distinct labels."""
        labels = self.match.layout.labels
        if not labels:
            return []
        column = self.columns.get(self.label_column)
        if column and not column.many and not column.kinds & {list, dict} and "accept" not in self.columns:
            return list(column.values)
        found: dict[str, object] = {}
        row = Row(self.match.names)
        for _, row.values in self.table.rows:
            try:
                found |= {repr(label): label for label in labels(row)}
            except (Unusable, DataError):  # reported when the records are made
                continue
            if len(found) > _KEPT:
                break
        return list(found.values())


def _key(spec: str) -> tuple[str, list[str]]:
    """The name that a layout uses for a column, and the names that the column can have."""
    key, is_named, names = spec.partition("=")
    alternatives = (names if is_named else key).split("|")
    return (key if is_named else alternatives[0]), alternatives


KNOWN = {name for layout in LAYOUTS for spec in (*layout.needs, *layout.uses) for name in _key(spec)[1]}


def _match(layout: Layout, columns: dict[str, Column], chosen: Sequence[str]) -> Match | None:
    names: dict[str, str] = {}
    doubts = []
    for spec in layout.needs:
        key, alternatives = _key(spec)
        present = [name for name in alternatives if name in columns]
        if not present:
            return None
        names[key] = present[0]
        if len(present) > 1 and present[0] != alternatives[0]:
            doubts.append(tuple(present))
    for spec in layout.uses:
        key, alternatives = _key(spec)
        free = [name for name in alternatives if name in columns and name not in names.values()]
        if free and key not in names:
            names[key] = free[0]
    return Match(layout, names, tuple(doubts)) if layout.admits(columns, names, chosen) else None


def recognise(table: Table, chosen: Sequence[str] = ()) -> Recognised | None:
    """The layout of a table: the one that explains most of its columns. None if no layout fits.

    Args:
        table: its columns are renamed already.
        chosen: columns that the user has named; the layout must use them.

    Raises:
        DataError: there are two layouts that explain different columns, or columns that would change the meaning.
    """
    columns, rows = profile(table)
    matches = [match for layout in LAYOUTS if (match := _match(layout, columns, chosen))]
    fitting = [match for match in matches if set(chosen) <= match.explained]
    if chosen and not fitting:
        if missing := [name for name in chosen if name not in columns]:
            raise DataError(f"{table.name}: --data.columns gives no {shown(missing)} here; found {shown(columns)}")
        raise DataError(f"{table.name}: no layout has the columns {shown(chosen)}; known are {READ}")
    best = [m for m in fitting if not any(_beats(other, m) for other in fitting)]
    if not best:
        return None
    if len(best) > 1:
        kinds = "; ".join(" and ".join(match.needed) for match in best)
        flags = " or ".join(_flag(match.needed) for match in best[:2])
        raise DataError(f"{table.name}: columns of several kinds ({kinds}): choose with {flags}")
    match = best[0]
    if match.doubts and not chosen:
        several = match.doubts[0]
        key = next(_key(need)[0] for need in match.layout.needs if several[0] in _key(need)[1])
        flags = " or ".join(f"--data.columns {key}={name}" for name in several)
        raise DataError(f"{table.name}: columns {shown(several)} could each be the {key}: choose with {flags}")
    if not set(match.needed) <= set(chosen):  # otherwise the user has named all of them
        _check_other_columns(table, columns, match)
    return Recognised(table, columns, rows, match)


def _beats(one: Match, other: Match) -> bool:
    if one.explained == other.explained:
        return len(one.needed) > len(other.needed)
    return one.explained > other.explained


def _flag(columns: list[str]) -> str:
    return "--data.columns " + ",".join(f"{name}={name}" for name in columns)


def refusal(table: Table) -> DataError:
    """An error for a table that no layout fits, with the ways to name its columns."""
    columns, _ = profile(table)
    text = next((name for name in TEXT.split("|") if name in columns), None)
    missing = f"no column 'label' beside '{text}'" if text else "no columns to learn from"
    return DataError(
        f"{table.name}: {missing}; found {shown(columns)}; name them, as in --data.columns text=NAME,label=NAME; known "
        f"are {READ}"
    )


def lacks_only_labels(table: Table) -> bool:
    """Whether a table has texts and nothing that could be their labels, as the test files of benchmarks."""
    columns, _ = profile(table)
    return any(name in columns for name in TEXT.split("|")) and not any(name in columns for name in LABEL.split("|"))


def _check_other_columns(table: Table, columns: dict[str, Column], match: Match) -> None:
    """Refuse columns that the layout does not read and that change the meaning of those it reads."""
    others = {name: column for name, column in columns.items() if name not in match.explained}
    if (answer := others.get("answer")) and answer.values & {"reject", "ignore"}:
        raise DataError(
            f"{table.name}: column 'answer' rejects rows, and plaudit does not read it here: remove the rows that are "
            "not accepted, then remove the column"
        )
    if "text" in match.names and "response" not in match.names:
        return
    choose = f"or ignore it with {_flag(match.needed)}"
    questions = [name for name in _QUESTIONS if name in others and others[name].filled]
    if questions:
        raise DataError(
            f"{table.name}: column {shown(questions)} is not read; found {shown(columns)}; join it to the column "
            f"'prompt', {choose}"
        )
    rates = [name for name, column in others.items() if name in _SCORES or _looks_like_a_rating(name, column)]
    if rates and match.layout.imitates:
        raise DataError(
            f"{table.name}: {match.layout.name} do not go with {shown(rates)}, because SFT imitates every response: "
            f"keep the rows with good responses, or read it with --data.columns label={rates[0]}, {choose}"
        )


def _looks_like_a_rating(name: str, column: Column) -> bool:
    """Whether all values are numbers that vary and repeat. Identifiers do not repeat, or say what they are."""
    if _COUNTS.fullmatch(name) or not column.numeric or column.many:
        return False
    return 1 < len({float(value) for value in column.values}) < column.filled


def meanings(found: Iterable[Recognised], positive: str) -> dict[tuple[str, str], tuple[Meaning, str]]:
    """How labels are read, by layout and column: the tables of a data set are read alike."""
    values: dict[tuple[str, str], list[object]] = {}
    header: dict[tuple[str, str], bool] = {}
    for one in found:
        if one.match.layout.labels:
            at = one.match.layout.name, one.label_column
            values.setdefault(at, []).extend(one.labels())
            header[at] = header.get(at, True) and one.table.header
    return {at: meaning(at[1], some, positive, header[at]) for at, some in values.items()}


def records(
    one: Recognised,
    how: dict[tuple[str, str], tuple[Meaning, str]],
    role: str,
    collect: Callable[[Iterable[Record]], object],
) -> tuple[type | None, Reading]:
    """Give the records of a table to `collect`; their kind, and how they were read.

    Rows that cannot be learned from are counted by reason.

    Raises:
        DataError: a value is not allowed.
    """
    table, match = one.table, one.match
    meaning, labels = how.get((match.layout.name, one.label_column), (None, ""))
    left_out: Counter[str] = Counter()
    kind: type | None = None
    row, make = Row(match.names, meaning), match.layout.make

    def made() -> Iterator[Record]:
        nonlocal kind
        for number, row.values in table.rows:
            try:
                record = make(row)
            except Unusable as reason:
                left_out[str(reason)] += 1
                continue
            except DataError as error:
                raise DataError(f"{table.name}, {table.unit} {number}: {error}") from None
            kind = kind or type(record)
            yield record

    collect(made())
    count = one.rows - left_out.total()
    if left_out["unlabelled"] == one.rows:
        left_out = Counter({UNLABELLED_TABLE: one.rows})
    return kind, Reading(
        name=table.name,
        container=table.container,
        encoding=table.encoding,
        role=role if count else "left out",
        layout=match.layout.name,
        why=f"columns {shown(match.needed)}",
        used=tuple(name for name in one.columns if name in match.explained),
        ignored=tuple(name for name in one.columns if name and name not in match.explained),
        labels=labels,
        rows=one.rows,
        records=count,
        dropped=dict(+left_out),
    )
