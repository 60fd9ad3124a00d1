"""The contents of a run directory that the report shows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from plaudit.config import read_toml, tomllib
from plaudit.evaluation.report.words import CUSTOM_REWARD, REWARD_MODEL, interval, number
from plaudit.training.metrics import read_jsonl

_FOLDERS = ("sft", "reward_model", "ppo")
_FILES = (
    *(f"{folder}/{name}" for folder in _FOLDERS for name in ("metrics.jsonl", "timing.jsonl", "summary.json")),
    *("evaluation.json", "samples.jsonl", "responses.jsonl", "frontier.json"),
)


class RunFiles:
    """The contents of a run directory. Missing and malformed files are listed, and read as empty.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "config.toml"
        self.name = directory.resolve().name
        self.settings = read_toml(path)  # values by full name, such as `ppo.kl_coef`
        self.versions = _table(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("versions"))
        self.contents: dict[str, Any] = {}  # by path within the directory
        self.broken = []  # paths of the files that cannot be read
        existing = [name for name in _FILES if (directory / name).exists()]
        for name in existing:
            try:
                self.contents[name] = _read(directory / name)
            except (OSError, ValueError):
                self.broken.append(name)
        self.meta = self.table("evaluation.json", "meta")
        has_model, has_ppo = ((directory / folder).exists() for folder in ("reward_model", "ppo"))
        # PPO without a reward model uses a custom reward; its name will be in evaluation.json.
        default = CUSTOM_REWARD if has_ppo and not has_model else REWARD_MODEL
        self.reward = str(self.meta.get("reward") or default)
        default_reward = self.reward == REWARD_MODEL
        ends = interval({"score_range": (-1, 1) if default_reward else None} | self.meta, "score_range")
        self.bounds = ends if ends and ends[0] < ends[1] else None  # of a score; None for a reward without bounds
        optional = ("frontier.json",) if has_model or default_reward else ("frontier.json", "reward_model/")
        self.missing = [name for name in _FILES if name not in existing and not name.startswith(optional)]

    def lines(self, path: str) -> list[dict[str, Any]]:
        """The objects of a jsonl file."""
        return self.contents.get(path, [])

    def table(self, path: str, *keys: str) -> dict[str, Any]:
        """The object of a json file, or an object in it."""
        found = self.contents.get(path, {})
        for key in keys:
            found = _table(found.get(key))
        return found

    def tables(self, path: str, key: str) -> list[dict[str, Any]]:
        """The objects of a list in a json file."""
        found = self.table(path).get(key)
        return [v for v in found if isinstance(v, dict)] if isinstance(found, list) else []

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by stage: from evaluation.json, or from the steps so far if it does not exist yet."""
        times = self.table("evaluation.json", "meta", "wall_seconds")
        if not times:
            times = {f: sum(number(r, "seconds") or 0 for r in self.lines(f"{f}/timing.jsonl")) for f in _FOLDERS}
        return {stage: value for stage in times if (value := number(times, stage))}

    def speed(self, stage: str) -> float | None:
        """Tokens per second of the median step."""
        speeds = [number(line, "tokens_per_second") for line in self.lines(f"{stage}/timing.jsonl")]
        known = [speed for speed in speeds if speed is not None]
        return median(known) if known else None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Any:
    content = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    if not all(isinstance(c, dict) for c in (content if path.suffix == ".jsonl" else [content])):
        raise ValueError("not a JSON object")
    return content
