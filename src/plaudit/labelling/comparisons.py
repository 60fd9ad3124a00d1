"""What people chose in a labelling project, as the file that a reward model learns from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from plaudit.errors import FeedbackError
from plaudit.feedback.exchange import snapshot
from plaudit.feedback.store import Store
from plaudit.files import write_atomic
from plaudit.records import Text

FILE = "comparisons.jsonl"  # in the folder of the project


def write_comparisons(project: Path, file: Path | None = None) -> Path:
    """Write the votes that are valid now, one line a vote, by default into the project's folder; the path of the file.

    The same votes give the same bytes, so a reward model that was trained on them is known to be up to date.

    Raises:
        FeedbackError: there is no project, or nobody has voted.
    """
    store = Store.open(project, create=False)
    try:
        found = snapshot(store)
    finally:
        store.close()
    if not found.comparisons:
        raise FeedbackError(f"{project}: nobody has compared a pair yet; run: plaudit label {project.parent}")
    distinct = dict.fromkeys(found.comparisons)  # the same answer to a pair that came again is no further vote
    lines = [json.dumps(_row(one), ensure_ascii=False) for one in distinct]
    path = file or project / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def _row(comparison: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(comparison).items()}


def _plain(value: Text | float) -> Any:
    return value if not isinstance(value, tuple) else [dataclasses.asdict(message) for message in value]
