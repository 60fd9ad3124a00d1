"""The settings of a command: what the user gave, in layers, and what follows from the model's size."""

from pathlib import Path
from typing import Any

from plaudit.cli import flags
from plaudit.config import build, fitted, given, preset, read_saved, read_toml, resolve


def layered(params: dict[str, Any], directory: Path | None) -> dict[str, Any]:
    """What is given: --preset < the settings of `directory`, if there is one < --config < flags."""
    base = preset(params["preset"]) if params["preset"] else {}
    file = read_toml(Path(params["config"])) if params["config"] else {}
    known = given(base, saved(directory) if directory else {}, file, flags.by_full_name(params))
    resolve(known)  # settings that contradict each other are refused at once
    return known


def saved(directory: Path) -> dict[str, Any]:
    """The settings of a run directory; none if it is new."""
    path = directory / "config.toml"
    return read_saved(path) if path.exists() else {}


def fit(known: dict[str, Any]) -> Any:
    """The Config of what is given, after a line on the settings that follow from the model's size."""
    from plaudit.cli import progress

    with progress.waiting("starting"):
        chosen, line = fitted(known)
        config = build(known, chosen)
    progress.say(line)
    return config
