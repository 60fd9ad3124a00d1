"""What the last digits of a result depend on besides its inputs."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from plaudit import __version__
from plaudit.models import hub
from plaudit.training import dist


def versions(model: str = "") -> dict[str, str]:
    """plaudit's version and revision, Python's version, and those of the libraries that results depend on.

    With the name of a model from the hub, also the commit of it that is used.
    """
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")}
    found = {"plaudit": __version__, "revision": _revision(), "python": platform.python_version(), **libraries}
    return found | ({"model": commit} if model and (commit := hub.commit(model)) else {})


def made_with(sharding: str) -> dict[str, Any]:
    """What the last digits of a result depend on besides its inputs: versions, threads, processes and how they share.

    `sharding` is the setting of that name.
    """
    strategy = sharding if dist.divides(sharding) else "none"
    return {**versions(), "threads": torch.get_num_threads(), "processes": dist.size(), "sharding": strategy}


@functools.cache
def _revision() -> str:
    """The commit of plaudit's own repository, with "-dirty" where files were changed since; "unknown" in a package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists() or not (root / "src" / "plaudit" / "training" / "run.py").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return "unknown"
    return git.stdout.strip() or "unknown"
