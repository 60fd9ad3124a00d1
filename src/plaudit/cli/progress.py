"""What a command shows while it works, on stderr: a bar on a terminal, a line each tenth of a stage elsewhere."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from plaudit.cli.console import brief, new_console, one_line, result
from plaudit.evaluation.report.words import duration
from plaudit.training.metrics import StepReport

if TYPE_CHECKING:
    from plaudit.pipeline import Plan
    from plaudit.training.run import Run

_SHOWN = {  # figures of a step, the most important first; a narrow terminal shows fewer
    "sft": ("loss",),
    "reward_model": ("loss", "accuracy"),
    "ppo": ("score", "kl", "response_length", "eos_rate"),
    "evaluation": ("sft_score", "policy_score"),
}
_SHORT = {"response_length": "length", "eos_rate": "ended", "sft_score": "SFT", "policy_score": "policy"}
_BAR = 20
_QUIET = 60.0  # seconds after which a log gets a line before the next tenth


def header(settings: dict[str, Any], out: Path) -> None:
    """One line about what is asked for, before anything is imported or opened."""
    names = (settings[name] for name in ("model", "data", "device", "dtype"))
    text = "plaudit: {} on {}; device {}, dtype {}; run directory {}".format(*names, out)
    new_console(stderr=True).print(text, style="bold", soft_wrap=True)


def outlook(plan: Plan, runs: Iterable[Run], stages: tuple[str, ...]) -> None:
    """One line about what was found, and how long the stages that are not complete will take."""
    millions = plan.parameters / 1e6
    size = f"{millions / 1000:.1f}B" if millions >= 1000 else f"{millions:.{0 if millions >= 100 else 1}f}M"
    rows = ", ".join(f"{count:,} {split}" for split, count in plan.records.items())
    parts = [f"{size} parameters", f"texts: {rows}", f"{plan.device}, {plan.dtype}"]
    if seconds := plan.seconds(stage for run in runs for stage in stages if not run.complete(stage)):
        parts.append(f"expected time {duration(seconds)}")
    new_console(stderr=True).print("; ".join(parts), soft_wrap=True)


def waiting(what: str) -> AbstractContextManager[Any]:
    """A spinner on a terminal, nothing elsewhere, while something takes its time."""
    console = new_console(stderr=True)
    return console.status(Text(what)) if _animated(console) else nullcontext()


def follow(run: Run, stages: tuple[str, ...], console: Console | None = None) -> dict[str, float]:
    """Run the stages in order and show how they proceed; one line with the result of each remains.

    A stage that is complete is skipped. The evaluation is made again after a stage that ran, and when it is alone.

    Args:
        console: where to show it; stderr if None.

    Returns:
        wall-clock seconds of every stage that ran, loading and saving included.
    """
    from plaudit.pipeline import steps

    console = console or new_console(stderr=True)
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, start=1):
        title, again = _title(stage), stage == "evaluation" and (bool(seconds) or len(stages) == 1)
        if run.complete(stage) and not again:
            console.print(f"{title}: {result(run.path, stage)} [was complete]", soft_wrap=True)
            continue
        if len(stages) > 1:
            console.print(f"stage {number} of {len(stages)}: {title}")
        began = time.monotonic()
        watch(steps(run.config, run, (stage,)), title, console)
        seconds[stage] = time.monotonic() - began
        line = f"{title}: {result(run.path, stage)} [{duration(seconds[stage])}]"
        console.print(line, style="bold", soft_wrap=True)
    return seconds


def watch(reports: Iterable[StepReport], title: str, console: Console | None = None) -> None:
    """Do the work behind `reports` by asking for them, and show how it proceeds.

    Args:
        title: what it is called until the first report.
        console: where to show it; stderr if None.
    """
    with _View(console or new_console(stderr=True), title) as view:
        for report in reports:
            view.step(report)


class _View:
    """Progress of one stage after another: a bar that is redrawn in place, or lines."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._lines = console, not _animated(console)
        columns = (SpinnerColumn(), TextColumn("{task.description}", style="bold", markup=False), BarColumn(_BAR))
        self._progress = Progress(
            *columns, _Figures(console.width), console=console, transient=True, disable=self._lines
        )
        self._task = self._progress.add_task(f"{title}: opening the model", total=None, figures=[], until=0.0)
        self._stage, self._tenth, self._printed = "", 0, time.monotonic()
        self._recent: deque[float] = deque(maxlen=20)
        if self._lines:
            console.print(f"{title}: opening the model", soft_wrap=True)

    def __enter__(self) -> _View:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, report: StepReport) -> None:
        """Show one step, and print its warnings and now and then its sample."""
        title = _title(report.stage)
        if report.stage != self._stage:
            if self._stage:
                self._progress.reset(self._task)
            self._stage, self._tenth = report.stage, 10 * (report.step - 1) // report.total
            self._recent.clear()
        self._recent.append(report.timing["seconds"])
        left = statistics.fmean(self._recent) * (report.total - report.step)
        metrics = report.metrics
        names = [name for name in _SHOWN.get(report.stage, ()) if name in metrics] or list(metrics)[:3]
        figures = [f"{_SHORT.get(name, name)} {brief(name, metrics[name])}" for name in names]
        self._progress.update(
            self._task,
            description=title if report.step < report.total else f"{title}: saving",
            total=report.total,
            completed=report.step,
            figures=figures,
            until=time.monotonic() + left,
        )
        for warning in report.warnings:
            self._console.print(f"{title}: WARNING: {warning}", style="bold red", soft_wrap=True)
        tenth, now = 10 * report.step // report.total, time.monotonic()
        if self._lines and (tenth > self._tenth or now > self._printed + _QUIET):
            share = f"{title}: {100 * report.step // report.total:3}%  step {report.step} of {report.total}"
            self._console.print("  ".join([share, *figures, f"{duration(left)} left"]), soft_wrap=True)
            self._printed = now
        if tenth > self._tenth and report.sample[1]:
            prompt, response = map(one_line, report.sample)
            text = Text.assemble("  sample: ", prompt, (f" | {response}", "italic"))
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        self._tenth = tenth


class _Figures(ProgressColumn):
    """Percentage, time since the beginning, time left, and as many figures of the step as the width has room for.

    The time left counts down between steps, and disappears when a step takes longer than expected.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def render(self, task: Task) -> Text:
        """The text for one bar."""
        left = task.fields["until"] - time.monotonic()
        text = f"{task.percentage:3.0f}%  " if task.total else ""
        text += _clock(task.elapsed or 0.0) + (f", {_clock(left)} left" if left > 0 else "")
        room = self._width - len(f"* {task.description} ") - _BAR - 1
        for figure in task.fields["figures"]:
            if len(text) + 2 + len(figure) > room:
                break
            text += f"  {figure}"
        return Text(text)


def _title(stage: str) -> str:
    return "reward model" if stage == "reward_model" else stage


def _animated(console: Console) -> bool:
    # rich takes FORCE_COLOR for a terminal; colour is welcome in a log, a bar is not.
    return console.is_interactive and console.file.isatty() and not console.quiet


def _clock(seconds: float) -> str:
    """03:05, or 1:03:05."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
