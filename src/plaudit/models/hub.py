"""Where a model's files are: a built-in name, a folder, or the hub, downloaded into its cache on first use."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from plaudit.config import nearest
from plaudit.data.hub import ask
from plaudit.errors import ModelError
from plaudit.models import smollm2
from plaudit.models.folder import converting
from plaudit.models.quiet import first_line, quiet

BUILT_IN: dict[str, Callable[[], Path]] = {
    "movie-gpt2": lambda: Path(__file__).parent / "movie_gpt2",
    "smollm2": smollm2.folder,  # fetched on first use
}
# What is fetched: no code, no pickle, no copies of the weights in other formats.
_FILES = ["*.json", "model.safetensors", "model-*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja"]


def folder_of(name: str) -> Path:
    """The folder of a model: a built-in name, a folder, or a hub id, also with a revision as in owner/name@v1.0.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if Path(name).is_dir():
        return Path(name)
    if name.partition("@")[0].count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"no model '{name}'{nearest(name, list(BUILT_IN))}: give a built-in name ({', '.join(BUILT_IN)}), "
            "a folder with a Hugging Face model, or a hub id such as openai-community/gpt2, also with a revision: "
            "openai-community/gpt2@main"
        )
    return _fetched(name)


def is_on_hub(name: str) -> bool:
    """Whether a name is looked up on the hub."""
    return name not in BUILT_IN and not Path(name).is_dir()


def commit(name: str) -> str:
    """The commit of a model from the hub that is used; empty for any other."""
    return _fetched(name).name if is_on_hub(name) else ""


@functools.cache  # one answer of the hub a process: all stages use the same files
def _fetched(name: str) -> Path:
    """The folder in the hub's cache with the files that plaudit reads, downloaded if the hub answers.

    Raises:
        ModelError: the hub has no such model or revision, or refuses it, or does not answer while the cache does not
            have the model; or there are no safetensors weights.
    """
    repository, _, revision = name.partition("@")
    problem = ask(functools.partial(HfApi().model_info, revision=revision or None), repository)
    try:
        with quiet():
            offline = problem is not None
            folder = snapshot_download(
                repository, revision=revision or None, allow_patterns=_FILES, local_files_only=offline
            )
    except Exception as error:  # of any class: network, disk, access
        raise ModelError(_refusal(name, problem or error)) from None
    found = Path(folder)
    if (found / "config.json").exists() and not any(found.glob("*.safetensors")):
        raise ModelError(f"{name}: the hub has no safetensors weights of it; {converting(repository)}")
    return found


def _refusal(name: str, error: Exception) -> str:
    """Why a model cannot be fetched, and what to do."""
    repository, _, revision = name.partition("@")
    token = "" if os.environ.get("HF_TOKEN") else ", and set HF_TOKEN if it is private"
    if isinstance(error, GatedRepoError):
        return (
            f"{name}: the model is gated: accept its terms at https://huggingface.co/{repository}, and set HF_TOKEN to "
            "a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: the model has no revision '{revision}'; give a branch, a tag or a commit after the @"
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return f"{name}: no folder, and the hub has no such model, or you have no access; check the name{token}"
    reason = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)
    return (
        f"cannot fetch '{name}' from the hub ({reason:.100}), and its cache does not have it; check the "
        f"network{token}; without a network, --model takes movie-gpt2 or a folder"
    )
