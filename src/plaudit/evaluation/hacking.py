"""Detection of reward hacking while it happens: the score rises, and what it stands for falls.

PPO's rollouts are measurements that cost nothing. They are summarised in windows of iterations, and an independent
judge reads the same responses; training sees none of this. Source: Gao et al. 2022, whose gold score first rises with
the proxy and then falls while the proxy continues to rise.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean
from typing import Any

from plaudit.evaluation.judge import judge_for
from plaudit.evaluation.report.words import MEASURES, number, written
from plaudit.files import write_atomic
from plaudit.training.metrics import StepReport, read_jsonl
from plaudit.training.run import Run

WINDOW = 640  # responses of a window, at least
IN_A_ROW = 3  # windows that must agree
NOISE = 3.0  # standard errors by which score and judge must have moved
JUDGE_FALL = 0.05  # share of responses; a smaller fall is not material
DISTINCT_LEFT = 0.5  # share of the distinct pairs; a healthy PPO run keeps some 0.7
PERPLEXITY_FACTOR = 1.5  # in either direction: formulaic or odd language; a healthy PPO run stays within some 1.1
_MEASURES = {m.key: m for m in MEASURES}


@dataclass(frozen=True)
class Window:
    """Some iterations together."""

    step: int  # the last iteration
    responses: int
    # None where there is no finite figure.
    score: float | None  # mean over the responses
    score_std: float | None
    judge_positive: float | None  # share that the independent judge calls positive; also where no judge fits the data
    distinct_2: float | None  # share of distinct token pairs in an iteration's responses, mean over the iterations
    perplexity_ref: float | None  # of the responses under SFT, geometric mean over the iterations


@dataclass(frozen=True)
class HackingWarning:
    """The score rose from window `before` to window `now` while `measure` fell."""

    measure: str
    before: Window
    now: Window

    @property
    def name(self) -> str:
        """The measure's name for readers."""
        return _MEASURES[self.measure].name

    @property
    def text(self) -> str:
        """The warning in one sentence, and what to do."""
        m, sides = _MEASURES[self.measure], (self.before, self.now)
        scores = " to ".join(written(w.score, "{:.2f}") for w in sides)
        figures = " to ".join(written(getattr(w, m.key), m.form) for w in sides)
        return (
            f"Reward hacking: from iteration {self.before.step} to {self.now.step} the score rose from {scores} "
            f"while '{self.name}' went from {figures}. The score is not a success; raise kl_coef or train less."
        )


def hacking_warnings(windows: Sequence[Window]) -> list[HackingWarning]:
    """What the windows show so far, in order: at most one warning a measure, where it is first beyond doubt.

    A measure has fallen when it is materially, and beyond noise, below its best so far while the score is beyond noise
    above what it was at that best, and when this holds in several windows in a row.
    """
    found = []
    for measure in ("judge_positive", "distinct_2", "perplexity_ref"):
        row = 0
        known = [w for w in windows if None not in (w.score, w.score_std, getattr(w, measure))]
        for i, now in enumerate(known):
            # The best perplexity is that of the beginning: a lower one is formulaic, a higher one is odd.
            before = known[0] if measure == "perplexity_ref" else max(known[: i + 1], key=attrgetter(measure))
            row = row + 1 if _rose(before, now) and _fell(before, now, measure) else 0
            if row == IN_A_ROW:
                found.append(HackingWarning(measure, before, now))
                break
    return sorted(found, key=lambda warning: warning.now.step)


def _rose(before: Any, now: Any) -> bool:
    """Whether the score rose between two windows that have it."""
    return now.score - before.score > NOISE * math.sqrt(sum(w.score_std**2 / w.responses for w in (before, now)))


def _fell(before: Any, now: Any, measure: str) -> bool:
    """Whether a measure fell between two windows that have it."""
    if measure == "distinct_2":
        return now.distinct_2 < DISTINCT_LEFT * before.distinct_2
    if measure == "perplexity_ref":
        return abs(math.log(now.perplexity_ref / before.perplexity_ref)) > math.log(PERPLEXITY_FACTOR)
    shares = before.judge_positive or 0.0, now.judge_positive or 0.0
    error = math.sqrt(sum(p * (1 - p) / w.responses for p, w in zip(shares, (before, now), strict=True)))
    return shares[0] - shares[1] > max(JUDGE_FALL, NOISE * error)


def detect_reward_hacking(run: Run, stage: str, reports: Iterator[StepReport]) -> Iterator[StepReport]:
    """The reports of a policy's training, with a warning on the one at which it first shows; leaves watch.jsonl.

    The windows follow from what the stage has logged, so that stopping and resuming changes nothing.
    """
    for report in reports:
        before, now = (hacking_warnings(_observe(run, stage, done)) for done in (report.step - 1, report.step))
        texts = tuple(warning.text for warning in now[len(before) :])
        yield dataclasses.replace(report, warnings=report.warnings + texts)
    _observe(run, stage, getattr(run.config, stage).iterations)


def windows_of(run: Run, stage: str) -> list[Window]:
    """The windows on record."""
    return [Window(**line) for line in read_jsonl(run.folder(stage) / "watch.jsonl")]


def _observe(run: Run, stage: str, done: int) -> list[Window]:
    """The windows of the first `done` iterations; those not on record are measured and recorded."""
    folder, size = run.folder(stage), math.ceil(WINDOW / getattr(run.config, stage).batch_size)
    windows = windows_of(run, stage)
    if len(windows) == done // size:
        return windows
    windows = windows[: done // size]
    judge, _ = judge_for(run.data)
    metrics, rollouts = (read_jsonl(folder / name) for name in ("metrics.jsonl", "rollouts.jsonl"))
    for end in range(size * (len(windows) + 1), done + 1, size):
        rows = metrics[end - size : end]
        texts = [text for line in rollouts[end - size : end] for text in line["responses"]]
        windows.append(
            Window(
                step=end,
                responses=len(texts),
                score=_mean(rows, "score"),
                score_std=_mean(rows, "score_std", lambda x: x * x, math.sqrt),
                judge_positive=None if judge is None else float((judge.positive(texts) > 0.5).mean()),
                distinct_2=_mean(rows, "distinct_2"),
                perplexity_ref=_mean(rows, "perplexity_ref", math.log, math.exp),
            )
        )
    lines = "".join(json.dumps(vars(window), allow_nan=False) + "\n" for window in windows)
    write_atomic(folder / "watch.jsonl", lines)
    return windows


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
