"""What a stage of a run has logged, as columns, also while the run is in progress or where files are damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.config import read_toml
from plaudit.errors import PlauditError
from plaudit.evaluation.health import WINDOW
from plaudit.evaluation.report.words import number


@dataclass(frozen=True)
class Metrics:
    """What a stage has logged so far.

    Attributes:
        columns: values by name, NaN where there is none; all have the same length.
    """

    stage: str
    folder: Path
    settings: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]

    @staticmethod
    def of(run: Path, stage: str) -> Metrics:
        """Those of a stage of a run directory, as far as they can be read."""
        lines = [line for line in _lines(run / stage / "metrics.jsonl") if number(line, "step") is not None]
        names = dict.fromkeys(name for line in lines for name in line)
        columns = {name: np.array([_float(line, name) for line in lines]) for name in names}
        try:
            settings = read_toml(run / "config.toml")
        except (PlauditError, OSError, ValueError):
            settings = {}
        own = {
            name.removeprefix(f"{stage}."): value for name, value in settings.items() if name.startswith(f"{stage}.")
        }
        return Metrics(stage, run / stage, own, columns)

    def __len__(self) -> int:
        return len(self.columns.get("step", ()))

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of a figure."""
        return self.columns.get(name, np.full(len(self), math.nan))

    def recent(self, name: str) -> np.ndarray:
        """For each step the mean of a figure over it and the three steps before; NaN where there is none."""
        values = self[name]
        padded = np.concatenate([np.full(WINDOW - 1, math.nan), values])
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
        known = np.isfinite(windows)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(known, windows, 0.0).sum(1) / known.sum(1)

    def since(self, shows: np.ndarray) -> int | None:
        """The step from which on `shows` is True up to the last step; None if it is not at the last."""
        if not len(shows) or not shows[-1]:
            return None
        hidden = np.flatnonzero(~shows)
        return int(self["step"][hidden[-1] + 1 if len(hidden) else 0])

    def any_since(self, shows: np.ndarray) -> int | None:
        """The first step at which `shows` is True; None if there is none."""
        places = np.flatnonzero(shows)
        return int(self["step"][places[0]]) if len(places) else None

    def now(self, name: str) -> float:
        """The latest mean of a figure over four steps; NaN where there is none."""
        return float(self.recent(name)[-1]) if len(self) else math.nan

    def half(self, name: str) -> float:
        """The mean of a figure over the second half of the steps; NaN where there is none."""
        values = self[name][len(self) // 2 :]
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else math.nan

    def start(self, name: str, steps: int = 2) -> float:
        """The mean of a figure over the first steps."""
        known = self[name][:steps][np.isfinite(self[name][:steps])]
        return float(known.mean()) if len(known) else math.nan

    def setting(self, name: str, default: float = 0.0) -> float:
        """A setting of the stage that is a number."""
        found = number(self.settings, name)
        return default if found is None else found


def _float(line: Mapping[str, Any], name: str) -> float:
    value = number(line, name)
    return math.nan if value is None else value


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file that can be read; the last line may be half written."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in map(_parsed, texts) if isinstance(line, dict)]


def read_object(path: Path) -> dict[str, Any]:
    """The object of a json file; {} where there is none that can be read."""
    try:
        found = _parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
