"""What a command shows while it works, on stderr: a bar on a terminal, a line each tenth of a stage elsewhere.

This module must not import torch, because it shows the progress while torch is imported.
"""

from __future__ import annotations

import math
import os
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

from plaudit.config import POLICIES, in_words
from plaudit.models.defaults import millions
from plaudit.training import preparation, stopping

if TYPE_CHECKING:
    from plaudit.cli.plan import Plan
    from plaudit.training.metrics import StepReport
    from plaudit.training.run import Run

_said: set[str] = set()  # warnings of this process before the stages began
_SHOWN = {  # figures of a step, the most important first; a narrow terminal shows fewer
    "sft": ("loss",),
    "reward_model": ("loss", "accuracy"),
    "dpo": ("loss", "accuracy", "margin"),
    "kto": ("loss", "accuracy", "log_ratio"),
    "best_of_n": ("loss",),
    "ppo": ("score", "kl", "response_length", "eos_rate"),
    "evaluation": ("sft_score", "policy_score"),
}
_SHORT = {"response_length": "length", "eos_rate": "ended", "sft_score": "SFT", "policy_score": "policy"}
_SHARES = {"accuracy": "{:.1%}", "eos_rate": "{:.0%}"}
_BEFORE = {  # what a stage does before its first step, by title
    "sft": "opening and checking the model; perplexity of the held-out texts, activations of frozen layers",
    "reward model": "opening and checking the model; tokenising the judgements, activations of frozen layers",
    "evaluation": "opening the models; answering the first held-out prompts",
    "frontier": "opening the models; answering the held-out prompts",
    "methods": "opening the models; answering the held-out prompts",
} | dict.fromkeys(map(in_words, POLICIES), "opening and checking the models; scoring responses of the SFT model")
_BAR = 20
_QUIET = 60.0  # seconds after which a log gets a line although no tenth is complete
_PREPARING = 10.0  # seconds between two lines about what precedes the first step


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, which a model may write and a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def new_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: what a model wrote is neither markup nor emoji."""
    # Under torchrun every process runs the same command; only the first one prints.
    quiet = os.environ.get("RANK", "0") != "0"
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=quiet)


def brief(name: str, value: float | None) -> str:
    """The figure called `name`, short and in ASCII, for a line of a log; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if name in _SHARES:
        return _SHARES[name].format(value)
    if "score" in name:
        return f"{value:+.2f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def header(settings: dict[str, Any], out: Path) -> None:
    """One line about what is asked for, before anything is imported or opened."""
    names = (settings[name] for name in ("model", "data.name", "device", "dtype"))
    text = "plaudit: {} on {}; device {}, dtype {}; run directory {}".format(*names, out)
    new_console(stderr=True).print(text, style="bold", soft_wrap=True)


def say(line: str) -> None:
    """A plain line before the stages begin; nothing for an empty one."""
    if line:
        new_console(stderr=True).print(line, soft_wrap=True)


def warn(line: str) -> None:
    """A warning before the stages begin."""
    _said.add(line)
    new_console(stderr=True).print(f"WARNING: {line}", style="bold red", soft_wrap=True)


def outlook(plan: Plan, runs: Iterable[Run], stages: tuple[str, ...]) -> None:
    """One line about what was found, and how long the stages that are not complete will take."""
    from plaudit.evaluation.report.words import duration

    rows = ", ".join(f"{count:,} {split}" for split, count in plan.records.items())
    parts = [f"{millions(plan.parameters)} parameters", f"texts: {rows}", f"{plan.device}, {plan.dtype}"]
    unfinished = [stage for run in runs for stage in stages if not run.complete(stage)]
    if seconds := plan.seconds(unfinished):
        scoring = sum(plan.reward.get(stage, 0.0) for stage in unfinished)
        parts.append(
            f"expected time {duration(seconds)}" + (f", {duration(scoring)} of it the reward" if scoring else "")
        )
    new_console(stderr=True).print("; ".join(parts), soft_wrap=True)


def note(sentences: Iterable[str]) -> None:
    """Sentences that the user should know, one a line."""
    for sentence in sentences:
        new_console(stderr=True).print(f"note: {sentence}", style="bold", soft_wrap=True)


def waiting(what: str) -> AbstractContextManager[Any]:
    """A context that shows a spinner and `what` on a terminal, and nothing elsewhere."""
    console = new_console(stderr=True)
    return console.status(Text(what)) if _animated(console) else nullcontext()


def follow(run: Run, stages: tuple[str, ...], console: Console | None = None) -> dict[str, float]:
    """Run the unfinished stages and show their progress, by default on stderr; print a line with each result.

    Returns the wall-clock seconds of every stage that ran, loading and saving included.
    """
    from plaudit.cli.console import details, result
    from plaudit.evaluation.report.words import duration
    from plaudit.pipeline import due, steps
    from plaudit.training import dist

    console = console or new_console(stderr=True)
    to_run, seconds = due(run, stages), {}
    for number, stage in enumerate(stages, start=1):
        title = in_words(stage)
        if stage not in to_run:
            console.print(f"{title}: {result(run.path, stage)} [was complete]", soft_wrap=True)
            continue
        if len(stages) > 1:
            console.print(f"stage {number} of {len(stages)}: {title}")
        began = time.monotonic()
        watch(steps(run, (stage,)), title, console)
        seconds[stage] = time.monotonic() - began
        line = f"{title}: {result(run.path, stage)} [{duration(seconds[stage])}]"
        console.print(line, style="bold", soft_wrap=True)
        for detail in details(run.path, stage):
            console.print(detail, soft_wrap=True)
        if stage != to_run[-1] and dist.any_rank(stopping.requested()):  # a signal in the stage's last step
            stopping.stop()
    return seconds


def watch(reports: Iterable[StepReport], title: str, console: Console | None = None) -> None:
    """Iterate over `reports`, which does the work, and show the progress; first, what precedes the first report."""
    console = console or new_console(stderr=True)
    lines = not _animated(console)
    columns = (SpinnerColumn(), TextColumn("{task.description}", style="bold", markup=False), BarColumn(_BAR))
    bar = Progress(*columns, _Figures(console), console=console, transient=True, disable=lines)
    task = bar.add_task(f"{title}: preparing", total=None, figures=[], until=0.0)
    console.print(f"{title}: {_BEFORE[title]} (may take minutes)", soft_wrap=lines)
    stage, tenth, printed, recent = "", 0, time.monotonic(), deque[float](maxlen=20)

    def preparing(what: str, share: float) -> None:
        nonlocal printed
        bar.update(task, description=f"{title}: {what}", total=1.0, completed=share)
        if lines and share < 1 and time.monotonic() > printed + _PREPARING:  # the preflight checks read only some
            console.print(f"{title}: {what} {share:.0%}", soft_wrap=True)
            printed = time.monotonic()

    with bar, preparation.shown_by(preparing):
        for report in reports:
            stopping.stop_if_ignored()
            step, total, metrics = report.step, report.total, report.metrics
            if report.stage != stage:
                if stage:
                    bar.reset(task, description=in_words(report.stage))
                stage, title, tenth = report.stage, in_words(report.stage), 10 * (step - 1) // total
                recent.clear()
            recent.append(report.timing["seconds"])
            left, now = statistics.fmean(recent) * (total - step), time.monotonic()
            names = [name for name in _SHOWN.get(stage, ()) if name in metrics] or list(metrics)[:3]
            figures = [f"{_SHORT.get(name, name)} {brief(name, metrics[name])}" for name in names]
            what = title if step < total else f"{title}: finishing"
            bar.update(task, description=what, total=total, completed=step, figures=figures, until=now + left)
            for warning in report.warnings:
                if f"{title}: {warning}" in _said:
                    continue
                console.print(f"{title}: WARNING: {warning}", style="bold red", soft_wrap=True)
            new_tenth, tenth = 10 * step // total > tenth, 10 * step // total
            if lines and (new_tenth or now > printed + _QUIET):
                share = f"{title}: {100 * step // total:3}%  step {step} of {total}"
                console.print("  ".join([share, *figures, f"{_clock(left)} left"]), soft_wrap=True)
                printed = now
            if new_tenth and report.sample[1]:
                prompt, response = map(one_line, report.sample)
                text = Text.assemble("  sample: ", prompt, (f" | {response}", "italic"))
                console.print(text, no_wrap=True, overflow="ellipsis")


class _Figures(ProgressColumn):
    """Percentage, time since the beginning, time left, and as many figures of the step as the width has room for.

    The time left counts down between steps, and disappears when a step takes longer than expected.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        """The text for one bar."""
        left = task.fields["until"] - time.monotonic()
        text = f"{task.percentage:3.0f}%  " if task.total else ""
        text += _clock(task.elapsed or 0.0) + (f", {_clock(left)} left" if left > 0 else "")
        room = self._console.width - len(f"* {task.description} ") - _BAR - 1
        for figure in task.fields["figures"]:
            if len(text) + 2 + len(figure) > room:
                break
            text += f"  {figure}"
        return Text(text)


def _animated(console: Console) -> bool:
    # rich takes FORCE_COLOR for a terminal; colour is welcome in a log, a bar is not.
    return console.is_interactive and console.file.isatty() and not console.quiet


def _clock(seconds: float) -> str:
    """03:05, or 1:03:05."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
