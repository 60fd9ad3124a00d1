"""The contents of a run directory that the report shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from plaudit.config import read_toml, tomllib
from plaudit.evaluation.report.words import CUSTOM_REWARD, REWARD_MODEL, number
from plaudit.training.metrics import read_jsonl

_FOLDERS = ("sft", "reward_model", "ppo")
_FILES = (
    *(f"{folder}/{name}" for folder in _FOLDERS for name in ("metrics.jsonl", "timing.jsonl", "summary.json")),
    *("evaluation.json", "samples.jsonl", "responses.jsonl", "frontier.json"),
)


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run directory. Missing and malformed files read as empty."""

    name: str  # name of the directory
    settings: dict[str, Any]  # values by full name, such as `ppo.kl_coef`
    versions: dict[str, Any]
    contents: dict[str, Any]  # parsed contents of the readable files, by path within the directory
    missing: list[str]  # paths of the files that a finished run has and this run lacks
    broken: list[str]  # paths of the files that cannot be read
    meta: dict[str, Any]  # from evaluation.json; always has `reward`, the name of the reward, and `score_range`

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


def read_run(directory: Path) -> RunFiles:
    """Read a run directory. Missing and malformed files are listed in the result; they are not errors.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
    """
    path = directory / "config.toml"
    settings = read_toml(path)
    versions = _table(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("versions"))
    contents: dict[str, Any] = {}
    broken = []
    existing = [name for name in _FILES if (directory / name).exists()]
    for name in existing:
        try:
            contents[name] = _read(directory / name)
        except (OSError, ValueError):
            broken.append(name)
    meta = _table(contents.get("evaluation.json", {}).get("meta"))
    has_model, has_ppo = ((directory / folder).exists() for folder in ("reward_model", "ppo"))
    # PPO without a reward model uses a custom reward; its name will be in evaluation.json.
    reward = str(meta.get("reward") or (CUSTOM_REWARD if has_ppo and not has_model else REWARD_MODEL))
    default_range = [-1, 1] if reward == REWARD_MODEL else None
    meta = meta | {"reward": reward, "score_range": meta.get("score_range", default_range)}
    optional = ("frontier.json",) if has_model or reward == REWARD_MODEL else ("frontier.json", "reward_model/")
    missing = [name for name in _FILES if name not in existing and not name.startswith(optional)]
    return RunFiles(directory.resolve().name, settings, versions, contents, missing, broken, meta)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Any:
    content = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    if not all(isinstance(c, dict) for c in (content if path.suffix == ".jsonl" else [content])):
        raise ValueError("not a JSON object")
    return content
