"""Pairs and votes from files: plaudit's exports, those of Argilla, Label Studio and feedloop, and published layouts."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from plaudit.data import annotation_tools, feedloop, formats
from plaudit.data.columns import Row, Unusable, text, turns
from plaudit.data.files import sources
from plaudit.data.hashed import Record
from plaudit.data.recognition import KNOWN, recognise, records, refusal
from plaudit.data.tables import Table, Values
from plaudit.errors import DataError, FeedbackError
from plaudit.feedback.entries import Outcome, Purpose, Response, digest_of, prompt_digest, text_json
from plaudit.feedback.exchange import COLUMNS, FORMAT, restore, unguarded
from plaudit.feedback.store import Store
from plaudit.records import Comparison, Ranking, Text

_OUTCOMES: dict[str, Outcome] = {"a": "a", "b": "b", "tie": "tie", "both_bad": "both_bad", "skip": "skip"}


@dataclass(frozen=True)
class _Pair:
    """Two responses, and what one annotator says about them."""

    prompt: Text
    a: Text
    b: Text
    outcome: Outcome | None = None  # None: nobody has compared them
    annotator: str = ""
    strength: int = 1
    left: Response | None = None
    repeat: bool = False
    active_ms: int = 0
    wall_ms: int = 0
    at: float | None = None
    gold: Response | None = None


@dataclass
class Imported:
    """What a file brought."""

    pairs: int = 0
    votes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # rows, pairs and votes by reason


def load(
    store: Store, path: str | Path, purpose: Purpose = "train", votes: bool = True, round: int = 0,
    now: float | None = None,
) -> Imported:  # fmt: skip
    """Add what is in a file, all of it or, after an error, nothing. The same file again adds nothing.

    A vote whose sides the file does not tell gets sides at random. Votes without a name are each somebody else's on the
    same pair.

    Args:
        store: the project.
        path: a file or folder.
        purpose: of the pairs; plaudit's own exports name it.
        votes: whether to take the votes too, or the pairs alone, to be compared anew.
        round: of the pairs.
        now: seconds since 1970.

    Raises:
        DataError: the file cannot be read, or its layout is unknown.
        FeedbackError: it is a project, and this one is not empty; or it has no pairs.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FeedbackError(f"{path}: no such file or folder")
    found = Imported()
    head = _beginning(path)
    if head.startswith(b'{"format": "' + FORMAT.encode()):
        restore(store, path)
        return Imported(len(store.items()), len(store.labels()))
    rows = _feedloop(path) if head.startswith(feedloop.MAGIC) else _tables(path, found.left_out)
    pairs = [(purpose if given is None else given, pair) for given, pair in rows]
    at = time.time() if now is None else now
    seen: Counter[tuple[Any, ...]] = Counter()
    with store.transaction() as connection:
        generator = store.add_generator(path.name, stage="import")
        before = len(store.items())
        usable = 0
        for given, pair in pairs:
            try:
                item, is_swapped = _add_pair(store, connection, pair, generator, given, round, at)
            except Unusable as reason:
                found.left_out[str(reason)] += 1
                continue
            usable += 1
            if votes and pair.outcome is not None:
                name = " ".join(pair.annotator.split())
                seen[item, name, pair.repeat] += 1
                name = name or f"{path.name} {seen[item, name, pair.repeat]}"
                _add_vote(store, connection, replace(pair, annotator=name), item, is_swapped, at, found)
        if not usable:
            why = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items()) or "no rows"
            raise FeedbackError(f"{path}: no pairs of responses in it: {why}")
        found.pairs = len(store.items()) - before
    return found


def _beginning(path: Path) -> bytes:
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(100)
    except OSError as error:
        raise FeedbackError(f"{path}: cannot be read: {error.strerror}") from None


def _add_pair(
    store: Store, connection: sqlite3.Connection, pair: _Pair, generator: int, purpose: Purpose, round: int, at: float
) -> tuple[int, bool]:
    """The item of a pair, and whether its a is the pair's b. A response that is there already is not added again."""
    a, b = (_words(pair.prompt, text) for text in (pair.a, pair.b))
    if a == b:
        raise Unusable("identical responses")
    query = (
        "SELECT completion.id FROM completion JOIN prompt ON prompt.id = prompt_id"
        " WHERE prompt.digest = ? AND text = ? ORDER BY completion.id LIMIT 1"
    )
    ids = []
    for words in (a, b):
        row = connection.execute(query, (prompt_digest(text_json(pair.prompt)), words)).fetchone()
        ids.append(row["id"] if row else store.add_completion(pair.prompt, words, generator))
    item = store.add_item(ids[0], ids[1], purpose, pair.gold, round, at)
    return item, connection.execute("SELECT a FROM item WHERE id = ?", (item,)).fetchone()["a"] != ids[0]


def _words(prompt: Text, response: Text) -> str:
    """A response as one text."""
    if isinstance(response, str):
        found = response
    elif len(response) == 1 and response[0].role == "assistant" and not isinstance(prompt, str):
        found = response[0].content
    else:
        raise Unusable("responses of several turns")
    if not found.strip():
        raise Unusable("empty")
    return found


def _add_vote(
    store: Store, connection: sqlite3.Connection, pair: _Pair, item: int, is_swapped: bool, at: float, found: Imported
) -> None:
    """Write down a vote, unless this annotator has voted on the item."""
    name, turned = pair.annotator, {"a": "b", "b": "a"}
    digest = digest_of(["import", name, item, pair.repeat])
    outcome, left = pair.outcome, pair.left or ("a" if int(digest[0], 16) % 2 else "b")
    if is_swapped:
        outcome, left = turned.get(outcome, outcome), turned[left]  # type: ignore[arg-type, assignment]
    given = at if pair.at is None else pair.at
    row = connection.execute("SELECT id FROM annotator WHERE name = ?", (name,)).fetchone()
    annotator = row["id"] if row else store.add_annotator(name, "person", secrets.token_hex(32), given).id
    asked = connection.execute(
        'INSERT INTO assignment (annotator_id, item_id, repeat, "left", given) VALUES (?, ?, ?, ?, ?)'
        " ON CONFLICT DO NOTHING",
        (annotator, item, int(pair.repeat), left, given),
    )
    if not asked.rowcount:
        found.left_out["voted already"] += 1
        return
    is_choice = outcome in ("a", "b")
    kind, side = ("choose", "left" if outcome == left else "right") if is_choice else (outcome, None)
    store.record(
        f"import-{digest}", asked.lastrowid, annotator, kind, side,  # type: ignore[arg-type]
        pair.strength, pair.active_ms, pair.wall_ms, now=given,
    )  # fmt: skip
    found.votes += 1


def _tables(path: Path, left_out: Counter[str]) -> Iterator[tuple[Purpose | None, _Pair]]:
    for source in sources(path):
        table = formats.table(source, frozenset(KNOWN | set(COLUMNS)))
        first = next(iter(table.rows))[1]
        if {"response_a", "response_b", "outcome", "left", "purpose"} <= set(first):
            yield from _own(table)
        elif _is_of_a_tool(table):
            yield from _checked(table, left_out, _of_a_tool)
        else:
            yield from _published(table, left_out)


def _own(table: Table) -> Iterator[tuple[Purpose | None, _Pair]]:
    """The CSV that plaudit exports."""
    row = Row({})
    for number, values in table.rows:
        row.values = {name: unguarded(value) if isinstance(value, str) else value for name, value in values.items()}
        try:
            numbers = {name: row.number(name) or 0 for name in ("strength", "active_ms", "wall_ms", "repeat")}
            pair = _Pair(
                prompt=turns(row.value("prompt"), "prompt", "user") if _is_packed(row) else row.text("prompt"),
                a=row.text("response_a"), b=row.text("response_b"), outcome=row.word("outcome", _OUTCOMES),
                annotator=row.text("annotator"), strength=int(numbers["strength"]) or 1,
                left=row.word("left", {"a": "a", "b": "b"}), repeat=bool(numbers["repeat"]),
                active_ms=int(numbers["active_ms"]), wall_ms=int(numbers["wall_ms"]), at=row.number("at"),
                gold=row.word("gold", {"": None, "a": "a", "b": "b"}),
            )  # fmt: skip
            purpose = row.word("purpose", {name: name for name in get_args(Purpose)})
        except (DataError, ValueError, OverflowError) as error:  # int of NaN or infinity
            raise DataError(f"{table.name}, {table.unit} {number}: {error}") from None
        yield purpose, pair


def _is_packed(row: Row) -> bool:
    return str(row.value("prompt")).startswith('[{"')


def _checked(table: Table, left_out: Counter[str], make: Any) -> Iterator[tuple[Purpose | None, _Pair]]:
    for number, values in table.rows:
        try:
            found = make(values)
        except Unusable as reason:
            left_out[str(reason)] += 1
            continue
        except DataError as error:
            raise DataError(f"{table.name}, {table.unit} {number}: {error}") from None
        yield from ((None, pair) for pair in found)


def _unanswered(values: Values) -> list[_Pair]:
    """A pair that nobody has compared."""
    prompt = values.get("prompt")
    asked: Text = turns(prompt, "prompt", "user") if isinstance(prompt, list) else text(prompt, "prompt")
    a, b = (text(values.get(name), name) for name in ("response_a", "response_b"))
    return [_Pair(asked, a, b)]


def _is_of_a_tool(table: Table) -> bool:
    for _, values in table.rows:
        try:
            if annotation_tools.comparisons(values) is None:
                return False
        except Unusable:
            continue
        except DataError:
            pass
        return True
    return False


def _of_a_tool(values: Values) -> list[_Pair]:
    return [*map(_of_comparison, annotation_tools.comparisons(values) or [])]


def _of_comparison(one: Comparison) -> _Pair:
    return _Pair(one.prompt, one.response_a, one.response_b, one.choice, one.annotator)


def _published(table: Table, left_out: Counter[str]) -> Iterator[tuple[Purpose | None, _Pair]]:
    """Comparisons and rankings in the layouts that a reward model is trained on."""
    if (one := recognise(table)) is None:
        if {"response_a", "response_b"} <= set(next(iter(table.rows))[1]):
            return _checked(table, left_out, _unanswered)
        raise refusal(table)
    if one.match.layout.labels or one.match.layout.imitates:
        raise DataError(f"{table.name}: {one.match.layout.name}, and here pairs of responses are needed")
    found: list[Record] = []
    left_out.update(records(one, {}, "training", found.extend)[1].dropped)
    return ((None, pair) for record in found for pair in _of_record(record))


def _of_record(record: Record) -> Iterator[_Pair]:
    if isinstance(record, Comparison):
        yield _of_comparison(record)
    elif isinstance(record, Ranking):
        for better, worse in combinations(record.responses, 2):
            yield _Pair(record.prompt, better, worse, "a", record.annotator)


def _feedloop(path: Path) -> Iterator[tuple[Purpose | None, _Pair]]:
    """The database of feedloop. Pairs that were skipped or not compared come without a vote."""
    for row in feedloop.rows(path):
        texts = row["prompt"], row["response_a"], row["response_b"]
        yield None, _Pair(*texts, outcome=row["choice"], left=row["left"], at=row["at"])
