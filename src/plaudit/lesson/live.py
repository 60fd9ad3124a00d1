"""Curves that are redrawn while a model trains."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.report.figures import running_mean
from plaudit.lesson.style import AFTER, INK, MUTED, NotebookFigure, new_figure
from plaudit.training.metrics import StepReport

_MIN_INTERVAL = 1.0  # seconds between two drawings
_MAX_SHARE = 0.03  # of the time is spent on drawing
_COLUMNS = 2


def plot_live(reports: Iterable[StepReport], **titles: str) -> Iterator[StepReport]:
    """Yield the reports of a training run unchanged, and draw metrics, by their titles, in the cell's output.

    >>> for report in plot_live(sft(run), loss="loss (nats per token)"):
    ...     pass
    """
    began = time.perf_counter()
    seen: list[StepReport] = []
    handle, drawn, cost = None, -math.inf, 0.0
    try:
        for report in reports:
            seen.append(report)
            now = time.perf_counter()
            if now - drawn >= max(_MIN_INTERVAL, cost / _MAX_SHARE):
                handle = _show(curves(seen, titles, now - began), handle)
                drawn = time.perf_counter()
                cost = drawn - now
            yield report
    finally:  # also when the reader interrupts the cell
        if seen:
            _show(curves(seen, titles, time.perf_counter() - began), handle)


def _show(figure: NotebookFigure, handle: Any) -> Any:
    if handle is None:
        return display(figure, display_id=True)
    handle.update(figure)
    return handle


def curves(reports: Sequence[StepReport], titles: Mapping[str, str], seconds: float) -> NotebookFigure:
    """Metrics over the steps, `seconds` after the first: values as a thin line, their running mean as a thick one."""
    columns, last = min(_COLUMNS, len(titles)), reports[-1]
    rows = math.ceil(len(titles) / columns)
    with new_figure(rows, columns, height=0.55 + 1.95 * rows, squeeze=False) as (figure, panels):
        for axes, (key, title) in zip(panels.flat, titles.items(), strict=False):
            points = [(report.step, report.metrics.get(key, math.nan)) for report in reports]
            steps, values = np.array([(step, value) for step, value in points if math.isfinite(value)]).reshape(-1, 2).T
            axes.set(title=title, xlim=(0, last.total))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.ticklabel_format(axis="y", useOffset=False)
            if len(values):
                mean = running_mean(values, max(1, len(values) // 20))
                axes.plot(steps, values, color=AFTER, linewidth=1, alpha=0.3)
                axes.plot(steps, mean, color=AFTER, marker="o" if len(values) == 1 else "")
                place = {"xytext": (-2, 7), "textcoords": "offset points", "ha": "right"}
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
                text = f"{mean[-1]:.3g}".replace("-", "−")
                axes.annotate(text, (steps[-1], mean[-1]), **place, color=INK, fontweight="bold", bbox=box)
        for axes in panels.flat[len(titles) :]:
            axes.set_visible(False)
        for axes in panels.flat[len(titles) - columns : len(titles)]:  # the lowest panel of each column
            axes.set_xlabel("optimizer step" if last.stage in ("sft", "reward_model") else "iteration")
        left = seconds / last.step * (last.total - last.step)
        done = f"{last.stage}: step {last.step:,} of {last.total:,}, {seconds:.0f} s"
        done += f", about {left:.0f} s left" if last.step < last.total else ""
        figure.suptitle(done, x=0.99, ha="right", fontsize=9.5, color=MUTED)
    return figure
