"""What people chose, as files and as comparisons to train on.

A tie and "both bad" are ties: neither response is better. A skip says nothing and never trains. Several votes of one
person on a pair count as one together, and so do the votes of several people on a pair: see `data.judgements`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sqlite3
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from plaudit.data.export import preference
from plaudit.errors import FeedbackError
from plaudit.feedback.entries import Completion, Label, Purpose, digest_of, text_json
from plaudit.feedback.store import Store
from plaudit.files import write_atomic
from plaudit.records import Comparison, Message, Text, dialogue

FORMAT, VERSION = "plaudit-feedback", 1
TABLES = ("meta", "prompt", "generator", "completion", "item", "annotator", "assignment", "event")
KEPT_BY_TRIGGER = {("assignment", "event_id"), ("assignment", "outcome")}  # they follow from the events
COLUMNS = (
    *("prompt", "response_a", "response_b", "choice", "outcome", "strength", "annotator", "left", "repeat", "purpose"),
    *("gold", "round", "active_ms", "wall_ms", "at", "generator_a", "generator_b"),
)
_SHARES = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a spreadsheet would run a cell that begins like this

Purposes = Sequence[Purpose]


@dataclass(frozen=True)
class Snapshot:
    """What a reward model learns from."""

    id: str  # SHA-256 of the votes and of the texts that they are about
    votes: int
    comparisons: tuple[Comparison, ...]


def snapshot(store: Store, purposes: Purposes = ("train",)) -> Snapshot:
    """The votes on pairs of these purposes that are valid now. A later snapshot with the same id has the same votes."""
    with store.database.reading():
        labels = _votes(store, purposes)
        prompts, completions = _texts(store, labels)
        names = {annotator.id: annotator.name for annotator in store.annotators()}
    found, digest = [], hashlib.sha256()
    for label in labels:
        prompt = prompts[label.prompt]
        a, b = (response(prompt, completions[one].text) for one in (label.a, label.b))
        choice = label.outcome if label.outcome in ("a", "b") else "tie"
        margin = float(label.strength) if choice != "tie" else 0.0
        found.append(Comparison(prompt, a, b, choice, names[label.annotator], margin))
        texts = [text_json(text) for text in (prompt, a, b)]
        digest.update(digest_of([label.event, label.outcome, label.strength, names[label.annotator], texts]).encode())
    return Snapshot(digest.hexdigest(), len(found), tuple(found))


def comparisons(store: Store, purposes: Purposes = ("train",)) -> list[Comparison]:
    """What people chose, one comparison for each vote. The margin is the strength of the vote, 1 or 2; of a tie 0."""
    return list(snapshot(store, purposes).comparisons)


def response(prompt: Text, text: str) -> Text:
    """A response in the form of its prompt: a text, or the assistant's message."""
    return text if isinstance(prompt, str) else (Message("assistant", text),)


def export(store: Store, path: str | Path, form: str) -> int:
    """Write a new file; see FORMS. Returns the number of rows.

    Raises:
        FeedbackError: the file exists already, there is no such form, or there is nothing to write.
    """
    path = Path(path)
    if form not in FORMS:
        raise FeedbackError(f"{form}: no such form of export; choose one of: {', '.join(FORMS)}")
    if path.exists():
        raise FeedbackError(f"{path}: exists already; choose another name")
    with store.database.reading():
        lines = [*FORMS[form](store)]
    rows = len(lines) - (form in ("csv", "all"))
    if not rows:
        raise FeedbackError("there are no choices to export yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(lines))
    return rows


def preferences(store: Store, purposes: Purposes = ("train",)) -> Iterator[str]:
    """JSONL with prompt, chosen and rejected, a line for each pair with a majority; each person has one vote on it.

    A prompt of several messages is a list of them, and so are its responses.
    """
    for comparison in _majorities(store, purposes):
        for row in preference(comparison):
            yield json.dumps(row, ensure_ascii=False) + "\n"


def conversations(store: Store, purposes: Purposes = ("train",)) -> Iterator[str]:
    """The same with every text as messages: the prompt is the user's, and the responses are the assistant's."""
    for one in _majorities(store, purposes):
        a, b = (dialogue(text, "assistant") for text in (one.response_a, one.response_b))
        for row in preference(Comparison(dialogue(one.prompt, "user"), a, b, one.choice)):
            yield json.dumps(row, ensure_ascii=False) + "\n"


def table(store: Store, purposes: Purposes = ("train", "eval", "gold")) -> Iterator[str]:
    """CSV with a row for each vote, which plaudit and spreadsheets read.

    `choice` is a, b or tie; `outcome` tells ties and "both bad" apart. A quote is put before what looks like a formula.
    """
    labels = _votes(store, purposes)
    prompts, completions = _texts(store, labels)
    names = {annotator.id: annotator.name for annotator in store.annotators()}
    wrote = {None: ""} | {id_: generator.name for id_, generator in store.generators().items()}
    yield _csv(COLUMNS)
    for label in labels:
        prompt, a, b = prompts[label.prompt], completions[label.a], completions[label.b]
        shown = prompt if isinstance(prompt, str) else text_json(prompt)
        choice = label.outcome if label.outcome in ("a", "b") else "tie"
        yield _csv([
            shown, a.text, b.text, choice, label.outcome, label.strength, names[label.annotator], label.left,
            int(label.repeat), label.purpose, label.gold or "", label.round,
            label.active_ms, label.wall_ms, repr(label.at), wrote[a.generator], wrote[b.generator],
        ])  # fmt: skip


def everything(store: Store) -> Iterator[str]:
    """JSONL of all tables, from which an equal database can be made. The first line names the format."""
    lines: list[dict[str, Any]] = [{"format": FORMAT, "version": VERSION}]
    with store.database.reading() as connection:
        for name in TABLES:
            order = "key" if name == "meta" else "id"
            for row in connection.execute(f"SELECT * FROM {name} ORDER BY {order}"):
                values = {key: value for key, value in dict(row).items() if (name, key) not in KEPT_BY_TRIGGER}
                if isinstance(values.get("features"), bytes):
                    values["features"] = b64encode(values["features"]).decode()
                lines.append({"table": name} | values)
    yield from (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def restore(store: Store, path: Path) -> None:
    """Fill an empty project with what `everything` wrote of another one.

    Raises:
        FeedbackError: the project is not empty, or a line is no row of a project.
    """
    with store.transaction() as connection:
        if any(connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in TABLES if name != "meta"):
            raise FeedbackError(f"{path}: a whole project, which goes into an empty one only: choose another folder")
        allowed = {
            name: {row["name"] for row in connection.execute(f"PRAGMA table_info({name})")}
            - {column for table, column in KEPT_BY_TRIGGER if table == name}
            for name in TABLES
        }
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    _insert(connection, json.loads(line), allowed, number)
                except (ValueError, TypeError, KeyError, AttributeError, sqlite3.Error) as error:
                    why = " ".join(str(error).split())
                    raise FeedbackError(f"{path}, line {number}: not a row of a project: {why}") from None


def _insert(connection: sqlite3.Connection, values: dict[str, Any], allowed: dict[str, set[str]], number: int) -> None:
    if number == 1:
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']} is newer: upgrade plaudit with pip")
        return
    name = values.pop("table")
    if set(values) != allowed[name]:
        raise ValueError(f"columns of {name} must be {', '.join(sorted(allowed[name]))}")
    if isinstance(values.get("features"), str):
        values["features"] = b64decode(values["features"], validate=True)
    columns = ", ".join(f'"{column}"' for column in values)
    marks = ", ".join("?" * len(values))
    verb = "INSERT OR REPLACE" if name == "meta" else "INSERT"
    connection.execute(f"{verb} INTO {name} ({columns}) VALUES ({marks})", [*values.values()])


FORMS: dict[str, Callable[[Store], Iterator[str]]] = {
    "preferences": preferences,
    "conversations": conversations,
    "csv": table,
    "all": everything,
}


def unguarded(cell: str) -> str:
    """A cell of `table` as it was."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _csv(cells: Sequence[Any]) -> str:
    file = io.StringIO()
    guarded = (f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in cells)
    csv.writer(file, lineterminator="\r\n").writerow(guarded)
    return file.getvalue()


def _votes(store: Store, purposes: Purposes) -> list[Label]:
    return [label for label in store.labels() if label.purpose in purposes and label.outcome != "skip"]


def _texts(store: Store, labels: list[Label]) -> tuple[dict[int, Text], dict[int, Completion]]:
    """The prompts and completions of some labels."""
    prompts = store.prompts(label.prompt for label in labels)
    return prompts, store.completions(one for label in labels for one in (label.a, label.b))


def _majorities(store: Store, purposes: Purposes) -> Iterator[Comparison]:
    """The pairs that have one, with the choice of the majority."""
    labels = _votes(store, purposes)
    prompts, completions = _texts(store, labels)
    shares: defaultdict[tuple[int, int, int], defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for label in labels:
        shares[label.prompt, label.a, label.b][label.annotator].append(_SHARES[label.outcome])
    for (prompt, *pair), people in shares.items():
        share = fmean(fmean(votes) for votes in people.values())
        if share != 0.5:
            a, b = (response(prompts[prompt], completions[one].text) for one in pair)
            yield Comparison(prompts[prompt], a, b, "a" if share > 0.5 else "b")
