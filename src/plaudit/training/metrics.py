"""What a stage says after each step, and the files that keep it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """One finished step of a stage.

    Attributes:
        stage: "sft", "reward_model", "ppo" or "evaluation".
        step: steps finished, counted from 1.
        total: steps in the whole stage.
        metrics: figures of this step by name; they follow from the settings alone.
        timing: `seconds` of this step and `tokens_per_second`; these differ from run to run.
        warnings: one sentence each, to show at once.
        sample: a prompt and the response that the model gave to it in this step; empty where there is none.
    """

    stage: str
    step: int
    total: int
    metrics: dict[str, float]
    timing: dict[str, float]
    warnings: tuple[str, ...] = ()
    sample: tuple[str, str] = ("", "")


class MetricsLog:
    """`metrics.jsonl` and `timing.jsonl` of one stage, and `rollouts.jsonl` where it samples: a JSON object a step.

    Times are kept apart so that `metrics.jsonl` of a resumed run equals that of an uninterrupted one byte
    for byte.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics_path = folder / "metrics.jsonl"
        self.timing_path = folder / "timing.jsonl"
        self.rollouts_path = folder / "rollouts.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, report: StepReport) -> None:
        """Write one line to each file."""
        for path, figures in ((self.metrics_path, report.metrics), (self.timing_path, report.timing)):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": report.step} | {k: _plain(v) for k, v in figures.items()}) + "\n")

    def log_responses(self, step: int, responses: list[str], **columns: list[Any]) -> None:
        """Write the responses of a step, and other columns with one value for each."""
        with self.rollouts_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "responses": responses} | columns) + "\n")

    def truncate(self, step: int) -> None:
        """Keep only the lines of steps up to `step`: what came after its checkpoint is done again."""
        for path in (self.metrics_path, self.timing_path, self.rollouts_path):
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                partial = path.with_name(path.name + ".partial")
                partial.write_text("".join(lines[:step]), encoding="utf-8")
                partial.replace(path)

    def seconds(self) -> float:
        """Wall-clock seconds of all the steps on record, over every process that took part."""
        return sum(line["seconds"] for line in read_jsonl(self.timing_path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; none when it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _plain(value: float) -> float | None:
    """JSON has no NaN: what could not be computed is null."""
    return value if math.isfinite(value) else None
