"""Progress of the stages, on stderr: a bar and colour on a terminal, a line a tenth of a stage elsewhere."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from plaudit.cli.console import brief, new_console, result
from plaudit.evaluation.report.words import duration
from plaudit.training.metrics import StepReport

_LIVE = {
    "sft": ("loss",),
    "reward_model": ("loss", "accuracy"),
    "ppo": ("score", "kl", "response_length", "eos_rate"),
    "evaluation": ("sft_score", "policy_score"),
}
_SHORT = {"response_length": "length", "eos_rate": "ended", "sft_score": "SFT", "policy_score": "policy"}


def follow(
    reports: Iterable[StepReport], directory: Path, stages: tuple[str, ...], console: Console | None = None
) -> dict[str, float]:
    """Do the stages' work by asking for their reports, and show how it goes; a line with its result stays of each.

    Args:
        reports: of one or more of `stages`, in order; a stage that was complete before has none.
        directory: the run directory, where the results are read.
        console: where to show it; stderr if None.

    Returns:
        wall-clock seconds of every stage that had something to do, loading and saving included.
    """
    console = console or new_console(stderr=True)
    seconds: dict[str, float] = {}
    recent: deque[float] = deque(maxlen=20)
    ahead = list(stages)
    stage, mark = "", time.monotonic()

    def end() -> None:
        console.print(f"{stage}: {result(directory, stage)} [{duration(seconds[stage])}]", style="bold", soft_wrap=True)

    with _Bars(console) if _animated(console) else _Lines(console) as view:
        for report in reports:
            now = time.monotonic()
            if report.stage != stage:
                if stage:
                    end()
                while ahead and ahead[0] != report.stage:
                    _say_complete(directory, ahead.pop(0), console)
                del ahead[:1]
                stage = report.stage
                recent.clear()
                view.begin(report)
            seconds[stage] = seconds.get(stage, 0.0) + now - mark
            mark = now
            recent.append(report.timing["seconds"])
            for warning in report.warnings:
                console.print(f"{stage}: WARNING: {warning}", style="bold red", soft_wrap=True)
            view.step(report, left=statistics.fmean(recent) * (report.total - report.step))
        if stage:
            seconds[stage] += time.monotonic() - mark
            end()
        for complete in ahead:
            _say_complete(directory, complete, console)
    return seconds


def waiting(what: str) -> AbstractContextManager[Any]:
    """A spinner on a terminal, nothing elsewhere, while something takes its time."""
    console = new_console(stderr=True)
    return console.status(Text(what)) if _animated(console) else nullcontext()


class _Clock(ProgressColumn):
    """Time since the stage began, and the time left, which counts down between steps and goes when overdue."""

    def render(self, task: Task) -> Text:
        """The text for one bar."""
        text, left = _clock(task.elapsed or 0.0), task.fields["until"] - time.monotonic()
        return Text(f"{text}, {_clock(left)} left" if left > 0 else text)


class _Bars:
    """A bar for the stage at work, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=20 if console.width >= 100 else 6),
            TaskProgressColumn(),
            _Clock(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("starting", total=None, figures="", until=0.0)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, report: StepReport) -> None:
        """A new stage, whose earlier steps were done before it was resumed."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(
            report.stage, total=report.total, completed=report.step - 1, figures="", until=0.0
        )

    def step(self, report: StepReport, left: float) -> None:
        """Draw one step; `left` in seconds."""
        until = time.monotonic() + left
        self._progress.update(self._task, completed=report.step, figures="  ".join(_figures(report)), until=until)


class _Lines:
    """A plain line whenever a stage has passed another tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenth = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, report: StepReport) -> None:
        """A new stage; what was done before it was resumed is not told again."""
        self._tenth = 10 * (report.step - 1) // report.total

    def step(self, report: StepReport, left: float) -> None:
        """Say one step if it is time; `left` in seconds."""
        tenth = 10 * report.step // report.total
        if tenth > self._tenth:
            self._tenth = tenth
            share = f"{100 * report.step // report.total:3}%  step {report.step} of {report.total}"
            parts = [f"{report.stage}: {share}", *_figures(report), f"{duration(left)} left"]
            self._console.print("  ".join(parts), soft_wrap=True)


def _animated(console: Console) -> bool:
    # rich takes FORCE_COLOR for a terminal; colour in a log is a wish, a bar in it is a mess.
    return console.is_interactive and console.file.isatty() and not console.quiet


def _say_complete(directory: Path, stage: str, console: Console) -> None:
    console.print(f"{stage}: {result(directory, stage)} [was complete]", soft_wrap=True)


def _figures(report: StepReport) -> list[str]:
    metrics = report.metrics
    names = [name for name in _LIVE.get(report.stage, ()) if name in metrics] or list(metrics)[:3]
    return [f"{_SHORT.get(name, name)} {brief(name, metrics[name])}" for name in names]


def _clock(seconds: float) -> str:
    """3:05, or 1:03:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
