"""The report of a stage after each step, and the log files that store it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.files import remove_file, sha256, sync, write_atomic, writes

PART = "score."  # before the name of a part of the reward, in metrics.jsonl and rollouts.jsonl
TOKENS_FILE = "tokens.jsonl"
_REMEDY = "put the file back, or start the stage again with --overwrite"


@dataclass(frozen=True)
class StepReport:
    """One finished step of a stage.

    Attributes:
        stage: "sft", "reward_model", "ppo" or "evaluation".
        step: steps finished, counted from 1.
        total: steps in the whole stage.
        metrics: values of this step by name; they depend only on the settings.
        timing: `seconds` of this step and `tokens_per_second`; they differ from run to run.
        warnings: one sentence each, to show immediately.
        sample: a prompt, and the model's response to it in this step; two empty strings if there is none.
    """

    stage: str
    step: int
    total: int
    metrics: dict[str, float]
    timing: dict[str, float]
    warnings: tuple[str, ...] = ()
    sample: tuple[str, str] = ("", "")


class MetricsLog:
    """The log files of one stage, with one JSON object per step.

    They are `metrics.jsonl`, `timing.jsonl` and, if the stage samples responses, `rollouts.jsonl`, with one object per
    response, and `tokens.jsonl`, with the tokens of a few of them. Times, and how many steps the stage has, have their
    own file, so that `metrics.jsonl` of a resumed run is byte for byte equal to that of an uninterrupted run.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics_path = folder / "metrics.jsonl"
        self.timing_path = folder / "timing.jsonl"
        self.rollouts_path = folder / "rollouts.jsonl"
        self.tokens_path = folder / TOKENS_FILE
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, report: StepReport) -> None:
        """Append one line to `metrics.jsonl` and to `timing.jsonl`."""
        timing = report.timing | {"total": report.total}
        for path, figures in ((self.metrics_path, report.metrics), (self.timing_path, timing)):
            _append(path, [{"step": report.step} | figures])

    def log_responses(self, iteration: int, **columns: list[Any]) -> None:
        """Append a line for each response of an iteration to `rollouts.jsonl`; the columns have one value for each."""
        _append(self.rollouts_path, _rows(iteration, columns))

    def log_tokens(self, iteration: int, **columns: list[Any]) -> None:
        """Append a line for each of the first responses of an iteration to `tokens.jsonl`.

        A line has `iteration`; `row`, the number of the response within the iteration, from 0; `prompt`, a text;
        `score`, normalised; and lists with one entry for each token of the response: `tokens` (texts), `ids`,
        `logprobs` and `ref_logprobs` (nats, of the policy that sampled and of the reference), `rewards`, `advantages`
        (whitened, as in the loss), and `values` where the policy has a value head. Figures are rounded to 5 digits.
        """
        _append(self.tokens_path, _rows(iteration, columns))

    def position(self) -> dict[str, dict[str, Any]]:
        """Number and hash of the bytes in each log but `timing.jsonl`, once they are on the disk."""
        found = {}
        for path in (self.metrics_path, self.rollouts_path, self.tokens_path):
            if path.exists():
                sync(path)
                found[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        return found

    def cut_back(self, step: int, position: dict[str, dict[str, Any]]) -> None:
        """Remove the lines after `step`, because training repeats the steps after its checkpoint.

        Args:
            position: as it was at that step; {} for no lines at all.

        Raises:
            RunError: the lines up to `step` are not those that were written.
        """
        for path in (self.metrics_path, self.rollouts_path, self.tokens_path):
            end = position.get(path.name)
            if end is None:
                remove_file(path)
                continue
            if not path.exists() or sha256(path, end["bytes"]) != end["sha256"]:
                raise RunError(f"{path}: damaged: its lines up to step {step} have changed; {_REMEDY}")
            if writes():
                with path.open("r+b") as file:
                    file.truncate(end["bytes"])
        if self.timing_path.exists():
            lines = self.timing_path.read_bytes().splitlines(keepends=True)
            write_atomic(self.timing_path, b"".join(lines[:step]))

    def seconds(self) -> float:
        """Wall-clock seconds of all logged steps, of all members, including those before training was resumed."""
        logs = sorted(self.timing_path.parent.rglob(self.timing_path.name))
        return sum(line["seconds"] for path in logs for line in read_jsonl(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; an empty list if it does not exist.

    Raises:
        RunError: a line is no JSON object.
    """
    if not path.exists():
        return []
    try:
        return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged: {error}; {_REMEDY}") from None


def _rows(iteration: int, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    rows = zip(*columns.values(), strict=True)
    return [{"iteration": iteration, **dict(zip(columns, row, strict=True))} for row in rows]


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines in one write, so that a full disk leaves no half of one behind a whole one."""
    if not writes():
        return
    text = "".join(json.dumps({k: _plain(v) for k, v in line.items()}, allow_nan=False) + "\n" for line in lines)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _plain(value: Any) -> Any:
    """The value, or None (null in JSON) for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
