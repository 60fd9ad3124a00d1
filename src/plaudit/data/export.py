"""Data as a JSONL file in the formats of TRL, which plaudit, TRL and the library datasets all read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError
from plaudit.files import write_atomic
from plaudit.records import Comparison, Demonstration, LabelledText, Ranking, Text

Row = dict[str, Any]


def export(splits: Splits, path: str | Path) -> dict[str, int]:
    """Write the data into a new file; read again, they are cut into the same parts.

    Comparisons and the pairs of rankings become rows with prompt, chosen and rejected (and margin, where one is known);
    labelled texts rows with text and label, or with prompt, completion and label; demonstrations rows with prompt and
    completion, or with text; prompts alone rows with prompt. A prompt and what follows it can be joined as they are:
    the space between them is at the beginning of the latter. The column split says in which part a row is: train,
    prompts or evaluation.

    Args:
        splits: as `load` returns them. Of several kinds of records, those are written that a reward model learns from.

    Returns:
        the number of rows in each part. Ties are left out, because the format has none.

    Raises:
        DataError: the file exists already, or there is nothing to write.
    """
    path = Path(path)
    if path.exists() or path.suffix != ".jsonl":
        raise DataError(f"{path}: {'exists already' if path.exists() else 'must end in .jsonl'}; choose another name")
    parts = {name: [row | {"split": name} for row in _rows(part)] for name, part in splits.parts.items()}
    if not any(parts.values()):
        raise DataError(f"{splits.name}: only ties, and TRL's format for preferences has none")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for rows in parts.values() for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")
    return {name: len(rows) for name, rows in parts.items()}


def _rows(part: Part) -> Iterator[Row]:
    if part.comparisons:
        margins = any(comparison.margin for comparison in part.comparisons)
        for comparison in part.comparisons:
            yield from preference(comparison, margins)
    elif part.rankings:
        for ranking in part.rankings:
            yield from _ranking(ranking)
    elif part.labelled:
        yield from map(_labelled, part.labelled)
    else:
        yield from map(_demonstration, part.demonstrations)
        yield from ({"prompt": _plain(each.prompt)} for each in part.to_answer)


def _ranking(ranking: Ranking) -> Iterator[Row]:
    """Every pair of a ranking, the better one chosen."""
    for better, worse in itertools.combinations(ranking.responses, 2):
        yield from preference(Comparison(ranking.prompt, better, worse, "a"))


def preference(comparison: Comparison, margins: bool = False) -> Iterator[Row]:
    """The row of a comparison, with its margin if asked for; of a tie none."""
    if comparison.choice == "tie":
        return
    responses = comparison.response_a, comparison.response_b
    better, worse = responses if comparison.choice == "a" else responses[::-1]
    prompt, chosen = _joinable(comparison.prompt, better)
    row = {"prompt": prompt, "chosen": chosen, "rejected": _joinable(comparison.prompt, worse)[1]}
    yield row | ({"margin": comparison.margin} if margins else {})


def _labelled(record: LabelledText) -> Row:
    if not record.prompt:
        return {"text": _plain(record.text), "label": record.label}
    prompt, completion = _joinable(record.prompt, record.text)
    label = bool(record.label) if record.label in (0, 1) else record.label
    return {"prompt": prompt, "completion": completion, "label": label}


def _demonstration(record: Demonstration) -> Row:
    if not record.prompt:
        key = "text" if isinstance(record.response, str) else "messages"
        return {key: _plain(record.response)}
    prompt, completion = _joinable(record.prompt, record.response)
    return {"prompt": prompt, "completion": completion}


def _joinable(prompt: Text, response: Text) -> tuple[Any, Any]:
    """Prompt and response such that their concatenation is what plaudit trains on."""
    if not (isinstance(prompt, str) and isinstance(response, str)):
        return _plain(prompt), _plain(response)
    head = prompt.rstrip(" ")
    joined = not head or head[-1].isspace() or response[:1].isspace()
    return head, response if joined else f" {response}"


def _plain(text: Text) -> str | list[dict[str, str]]:
    """A text as it is; a dialogue as a list of messages."""
    return text if isinstance(text, str) else [{"role": turn.role, "content": turn.content} for turn in text]
