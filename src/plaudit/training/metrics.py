"""The report of a stage after each step, and the log files that store it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """One finished step of a stage."""

    stage: str  # an algorithm or "evaluation"
    step: int  # counted from 1
    total: int  # steps in the whole stage
    metrics: dict[str, float]  # by name; they depend only on the settings
    timing: dict[str, float]  # `seconds` and `tokens_per_second`, which differ from run to run
    warnings: tuple[str, ...] = ()  # one sentence each, to show immediately
    sample: tuple[str, str] = ("", "")  # a prompt and the model's response in this step; empty if there is none


class MetricsLog:
    """The log files of one stage, with one JSON object per step.

    Times have their own file, so that the metrics of a resumed run are byte for byte those of an uninterrupted one.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics_path = folder / "metrics.jsonl"
        self.timing_path = folder / "timing.jsonl"
        self.rollouts_path = folder / "rollouts.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, report: StepReport) -> None:
        """Append one line to `metrics.jsonl` and to `timing.jsonl`."""
        for path, figures in ((self.metrics_path, report.metrics), (self.timing_path, report.timing)):
            # JSON has no NaN and no infinity.
            finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
            _append(path, {"step": report.step} | finite)

    def log_responses(self, step: int, responses: list[str], **columns: list[Any]) -> None:
        """Append the responses of a step to `rollouts.jsonl`; other columns have one value per response."""
        _append(self.rollouts_path, {"step": step, "responses": responses} | columns)

    def truncate(self, step: int) -> None:
        """Keep only the lines of steps up to `step`, because training repeats the steps after its checkpoint."""
        for path in (self.metrics_path, self.timing_path, self.rollouts_path):
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                partial = path.with_name(path.name + ".partial")
                partial.write_text("".join(lines[:step]), encoding="utf-8")
                partial.replace(path)

    def seconds(self) -> float:
        """Wall-clock seconds of all logged steps, including those before training was resumed."""
        return sum(line["seconds"] for line in read_jsonl(self.timing_path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; an empty list if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _append(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
