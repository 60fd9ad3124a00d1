"""Detection of reward hacking while it happens: the score rises, and what it stands for falls.

PPO's rollouts are measurements that cost nothing. They are summarised in windows of iterations, and an independent
judge reads the same responses; training sees none of this. Source: Gao et al. 2022, whose gold score first rises with
the proxy and then falls while the proxy continues to rise.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from statistics import fmean, pstdev
from typing import Any

from plaudit.evaluation.judge import judge_for
from plaudit.evaluation.report.words import number
from plaudit.evaluation.windows import HackingWarning, Part, Window, hacking_warnings, windows_of
from plaudit.files import write_atomic
from plaudit.rewards import AnyReward
from plaudit.training.metrics import PART, StepReport
from plaudit.training.rewards import weights_of
from plaudit.training.run import Run

WINDOW = 640  # responses of a window, at least
WINDOWS, SHORTEST = 6, 64  # a run of few responses is cut into this many shorter windows, of at least so many


def detect_reward_hacking(
    run: Run, stage: str, reports: Iterator[StepReport], reward: AnyReward = None
) -> Iterator[StepReport]:
    """The reports of a policy's training, with a warning on the one at which it first shows; leaves watch.jsonl.

    The windows follow from what the stage has logged, so that stopping and resuming changes nothing.
    """
    watch = _Watch(run, stage, weights_of(run, reward))
    for report in reports:
        before = watch.warnings(report.step - 1)
        texts = tuple(warning.text for warning in watch.warnings(report.step)[len(before) :])
        yield dataclasses.replace(report, warnings=report.warnings + texts)
    watch.windows(getattr(run.config, stage).iterations)


class _Watch:
    """The windows of a stage while it trains. A line of its logs is read once, however long it trains.

    Args:
        weights: of the parts of a reward that has several.
    """

    def __init__(self, run: Run, stage: str, weights: dict[str, float]) -> None:
        self._run, self._stage, self._weights = run, stage, weights
        settings = getattr(run.config, stage)
        most = max(settings.iterations * settings.batch_size // WINDOWS, SHORTEST)
        self._size = math.ceil(min(WINDOW, most) / settings.batch_size)
        self._windows: list[Window] | None = None
        self._offsets = {"metrics.jsonl": 0, "rollouts.jsonl": 0}  # bytes that have been read
        self._found: tuple[int, list[HackingWarning]] = 0, []

    def warnings(self, done: int) -> list[HackingWarning]:
        """Those of the first `done` iterations, which never are fewer than in the call before."""
        windows = self.windows(done)
        if self._found[0] != len(windows):
            self._found = len(windows), hacking_warnings(windows)
        return self._found[1]

    def windows(self, done: int) -> list[Window]:
        """Those of the first `done` iterations; the ones that are not on record are measured and recorded."""
        if self._windows is None:  # a restored checkpoint may be older than the last window on record
            self._windows = windows_of(self._run.folder(self._stage))[: done // self._size]
        known = len(self._windows)
        while len(self._windows) < done // self._size:
            self._windows.append(self._measured(len(self._windows) * self._size))
        if len(self._windows) > known:
            lines = "".join(json.dumps(vars(window), allow_nan=False) + "\n" for window in self._windows)
            write_atomic(self._run.folder(self._stage) / "watch.jsonl", lines)
        return self._windows

    def _measured(self, begin: int) -> Window:
        """The window after the first `begin` iterations."""
        end = begin + self._size
        rows, responses = (
            self._read("metrics.jsonl", "step", begin, end),
            self._read("rollouts.jsonl", "iteration", begin, end),
        )
        texts, prompts = ([line[name] for line in responses] for name in ("response", "prompt"))
        judge = self._judge
        values = {name: [line[f"{PART}{name}"] for line in responses] for name in self._weights}
        return Window(
            step=end,
            responses=len(texts),
            score=_mean(rows, "score"),
            score_std=_mean(rows, "score_std", lambda x: x * x, math.sqrt),
            judge_positive=None if judge is None else float((judge.positive(texts, prompts) > 0.5).mean()),
            distinct_2=_mean(rows, "distinct_2"),
            perplexity_ref=_mean(rows, "perplexity_ref", math.log, math.exp),
            parts={name: Part(fmean(v), pstdev(v), self._weights[name]) for name, v in values.items()},
        )

    @cached_property
    def _judge(self) -> Any:
        config = self._run.config
        return judge_for(self._run.data, config.evaluation.judge, config.reward_timeout)[0]

    def _read(self, name: str, key: str, begin: int, end: int) -> list[dict[str, Any]]:
        """The next lines of a log up to iteration `end`, without those up to `begin`."""
        lines = []
        with (self._run.folder(self._stage) / name).open("rb") as file:
            file.seek(self._offsets[name])
            for text in file:
                line = json.loads(text)
                if line[key] > end:
                    break
                self._offsets[name] += len(text)
                lines += [line] if line[key] > begin else []
        return lines


def _mean(
    rows: list[dict[str, Any]],
    name: str,
    change: Callable[[float], float] = float,
    back: Callable[[float], float] = float,
) -> float | None:
    """The mean of a figure over the iterations that have it, taken of `change` of it; None if none has."""
    known = [value for row in rows if (value := number(row, name)) is not None]
    if not known or (change is math.log and min(known) <= 0):
        return None
    return back(fmean(map(change, known)))
