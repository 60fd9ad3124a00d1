"""Curves that grow while a stage trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.report.figures import running_mean
from plaudit.lesson.style import AFTER, INK, MUTED, Picture, picture, style
from plaudit.training.metrics import StepReport

_EVERY = 1.0  # seconds between two drawings at least,
_SHARE = 0.03  # and of the time at most this share for drawing
_COLUMNS = 2


def live(reports: Iterable[StepReport], **titles: str) -> Iterator[StepReport]:
    """Pass on a stage's reports one by one, and draw their metrics in place as they come; the last drawing stays.

    Args:
        titles: a metric's name in the reports, and its title with its unit: loss="loss (nats a token)".

    >>> for step in live(sft(config, run), loss="loss (nats a token)"):
    ...     pass
    """
    began = time.perf_counter()
    seen: list[StepReport] = []
    handle: Any = None
    drawn, cost = -math.inf, 0.0
    try:
        for report in reports:
            seen.append(report)
            now = time.perf_counter()
            if now - drawn >= max(_EVERY, cost / _SHARE):
                handle = _show(curves(seen, titles, now - began), handle)
                drawn = time.perf_counter()
                cost = drawn - now
            yield report
    finally:  # whoever stops the cell sees how far it came
        if seen:
            _show(curves(seen, titles, time.perf_counter() - began), handle)


def _show(what: Picture, handle: Any) -> Any:
    if handle is None:
        return display(what, display_id=True)
    handle.update(what)
    return handle


def curves(reports: list[StepReport], titles: dict[str, str], seconds: float | None = None) -> Picture:
    """Metrics over the steps of a stage, one panel each: the values thin, their running mean thick.

    Args:
        titles: as in `live`.
        seconds: since the stage began; None says nothing of time.
    """
    columns = min(_COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    last = reports[-1]
    with style():
        figure, panels = picture(rows, columns, height=0.55 + 1.95 * rows, squeeze=False)
        for axes, (key, title) in zip(panels.flat, titles.items(), strict=False):
            steps = np.array([r.step for r in reports if math.isfinite(r.metrics.get(key, math.nan))])
            values = np.array([v for r in reports if math.isfinite(v := r.metrics.get(key, math.nan))])
            axes.set_title(title)
            axes.set_xlim(0, last.total)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.ticklabel_format(axis="y", useOffset=False)
            if len(values):
                mean = running_mean(values, max(1, len(values) // 20))
                axes.plot(steps, values, color=AFTER, linewidth=1, alpha=0.3)
                axes.plot(steps, mean, color=AFTER, marker="o" if len(values) == 1 else "")
                axes.annotate(
                    f"{mean[-1]:.3g}".replace("-", "−"),
                    (steps[-1], mean[-1]),
                    (-2, 7),
                    textcoords="offset points",
                    ha="right",
                    color=INK,
                    fontweight="bold",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
                )
        for axes in panels.flat[len(titles) :]:
            axes.set_visible(False)
        unit = "iteration" if last.stage == "ppo" else "optimizer step"
        for axes in panels.flat[len(titles) - columns : len(titles)]:  # the lowest of each column
            axes.set_xlabel(unit)
        figure.suptitle(_progress(last, seconds), x=0.99, ha="right", fontsize=9.5, color=MUTED)
    return figure


def _progress(report: StepReport, seconds: float | None) -> str:
    done = f"{report.stage}: step {report.step:,} of {report.total:,}"
    if seconds is None:
        return done
    if report.step == report.total:
        return f"{done}, {seconds:.0f} s"
    left = seconds / report.step * (report.total - report.step)
    return f"{done}, {seconds:.0f} s, about {left:.0f} s left"
