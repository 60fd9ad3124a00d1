"""What a run directory holds, as far as a report is concerned."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.config import read_toml
from plaudit.evaluation.report.words import number
from plaudit.training.metrics import read_jsonl

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = ("sft", "reward_model", "ppo")
_PARTS = (
    *(f"{folder}/{name}" for folder in FOLDERS for name in ("metrics.jsonl", "timing.jsonl", "summary.json")),
    "evaluation.json",
    "samples.jsonl",
    "responses.jsonl",
)
_EXTRA = "frontier.json"  # of those who ask for it: nobody else misses it


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run directory.

    Attributes:
        name: of the directory.
        settings: by full name, such as `ppo.kl_coef`.
        versions: that made the run.
        parts: contents by path within the directory.
        missing: paths of the parts that are not there.
        broken: paths of the parts that cannot be read.
    """

    name: str
    settings: dict[str, Any]
    versions: dict[str, Any]
    parts: dict[str, Any]
    missing: list[str]
    broken: list[str]

    def lines(self, path: str) -> list[dict[str, Any]]:
        """The objects of a jsonl part; none when it is missing or broken."""
        return self.parts.get(path, [])

    def table(self, path: str) -> dict[str, Any]:
        """The object of a json part; empty when it is missing or broken."""
        return self.parts.get(path, {})

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by stage: as the evaluation says, and before it as the stages have logged so far."""
        said = as_table(as_table(self.table("evaluation.json").get("meta")).get("wall_seconds"))
        if not said:
            said = {f: sum(number(r, "seconds") or 0 for r in self.lines(f"{f}/timing.jsonl")) for f in FOLDERS}
        return {stage: value for stage in said if (value := number(said, stage))}


def read_run(directory: Path) -> RunFiles:
    """Read a run directory. A part that is missing or malformed is left out and named, never an error.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
    """
    path = directory / "config.toml"
    settings = read_toml(path)
    versions = as_table(tomllib.loads(path.read_text(encoding="utf-8")).get("versions"))
    parts: dict[str, Any] = {}
    missing, broken = [], []
    for part in (*_PARTS, _EXTRA):
        if not (directory / part).exists():
            missing += [part] if part != _EXTRA else []
            continue
        try:
            parts[part] = _read(directory / part)
        except (OSError, ValueError):
            broken.append(part)
    return RunFiles(directory.resolve().name, settings, versions, parts, missing, broken)


def as_table(value: Any) -> dict[str, Any]:
    """`value` if it is a table, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def as_tables(value: Any) -> list[dict[str, Any]]:
    """The tables in `value` if it is a list, otherwise none."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _read(path: Path) -> Any:
    content = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    if not all(isinstance(c, dict) for c in (content if path.suffix == ".jsonl" else [content])):
        raise ValueError("not a JSON object")
    return content
