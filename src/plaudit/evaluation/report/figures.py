"""The figures of a report, as inline SVG in the colours and the font of the page.

Figures are drawn in placeholder colours that become CSS variables, so one drawing serves the light and the dark page.
Every function returns "" if there is nothing to draw.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.report.methods import name_of
from plaudit.evaluation.report.words import interval, number, written
from plaudit.maths.intervals import wilson

# Placeholder -> CSS variable. The style sheet uses the Okabe-Ito palette, which colour-blind readers can tell apart.
# Of methods, told apart also by their markers: P. Tol's "bright" scheme.
METHOD_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#994f00")
INK, MUTED, GRID, BEFORE, AFTER, COST = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BEFORE: "before", AFTER: "after", COST: "cost"}

WIDTH = 420  # points: a figure fills a phone screen or half a desktop screen, and stays readable on both
LEFT, RIGHT, TOP, BOTTOM = 50, 54, 32, 42  # points around the axes, for tick labels, end labels and titles
TALL = 260  # points: the height of a figure with one panel, without BOTTOM
MOST_POINTS = 400  # longer series are averaged down to this number of points
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the font of the page
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "axes.ymargin": 0.1,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Panel:
    """One metric over the steps: its key in the file, title with unit, format of the last value, placeholder colour."""

    key: str
    title: str
    form: str = "{:.2f}"
    colour: str = AFTER


def columns(rows: Sequence[dict[str, Any]], *keys: str) -> np.ndarray:
    """(keys, rows) the values of `keys`, from the rows in which all of them are finite numbers."""
    found = [[number(row, key) for key in keys] for row in rows]
    return np.array([values for values in found if None not in values], dtype=np.float64).reshape(-1, len(keys)).T


def series(name: str, rows: Sequence[dict[str, Any]], panels: Sequence[Panel], unit: str, height: int = TALL) -> str:
    """Metrics over the steps, one panel of `height` points below the other; `name` is unique on the page."""
    lines = [(panel, *columns(rows, "step", panel.key)) for panel in panels]
    lines = [line for line in lines if len(line[1])]
    if not lines:
        return ""
    titles = [panel.title for panel, _, _ in lines]
    with new_figure(name, titles, unit, height) as (figure, all_axes):
        for axes, (panel, steps, values) in zip(all_axes, lines, strict=True):
            _trend(axes, steps, values, panel)
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return svg(figure, f"{', '.join(titles)} over each {unit}")


def others(rows: Sequence[dict[str, Any]], shown: Sequence[str]) -> list[Panel]:
    """A panel for each metric of these lines that is not among `shown`, under its own name."""
    names = dict.fromkeys(name for row in rows for name in row if name.isidentifier() and name not in shown)
    return [Panel(name, name.replace("_", " "), "{:.3g}") for name in names]


def score_against_kl(name: str, rows: Sequence[dict[str, Any]], title: str) -> str:
    """Mean score against KL: one point per iteration, stronger as training goes on; `name` as in `series`."""
    points = columns(rows, "kl", "score", "step")
    n = points.shape[1]
    if not n:
        return ""
    kl, y, step = points[:, np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(int)]
    x = np.sqrt(np.clip(kl, 0, None))
    with new_figure(name, [title], "√KL (square root of nats per response)") as (figure, (axes,)):
        axes.scatter(x, y, s=26, color=AFTER, alpha=np.linspace(0.15, 0.9, len(x)), linewidths=0)
        for i in sorted({0, len(x) - 1}):
            axes.scatter(x[i], y[i], s=40, facecolors="none", edgecolors=INK, linewidths=1)
            label(axes, x[i], y[i], f"iteration\n{step[i]:.0f}", (8, -8))
        axes.margins(0.03, 0.1)
        return svg(figure, "mean score against the square root of KL, one point per iteration")


def frontier(best: Sequence[dict[str, Any]], policies: Sequence[dict[str, Any]], key: str, title: str) -> str:
    """Best-of-n and the PPO policies against their KL, with 95 % intervals: the points of `frontier.json`."""
    best, policies = (
        [p for p in points if columns([p], "kl_mean", key, name).size and interval(p, _ends(key))]
        for points, name in ((best, "n"), (policies, "kl_coef"))
    )
    if not best:
        return ""
    lines = {"": best}
    for point in policies:
        lines.setdefault(f"{point['kl_coef']:g}", []).append(point)
    xlabel = "KL (nats per response, on a square-root scale)"
    with new_figure(f"frontier-{key}", [title], xlabel) as (figure, (axes,)):
        kl_scale(axes, columns([*best, *policies], "kl_mean").max())
        for i, (name, points) in enumerate(lines.items()):
            colour = AFTER if name else COST
            x, y = measured(axes, points, key, colour, "os^DvP"[i % 6])
            label(axes, x[-1], y[-1], name or f"best of {points[-1]['n']:g}", (6, 4), colour)
        return svg(figure, f"{title} against KL, of best-of-n and of the PPO policies")


def methods(best: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], key: str, title: str) -> str:
    """Best-of-n, and the policies of each method during training against their KL: the points of `methods.json`."""
    best, points = (
        [p for p in some if columns([p], "kl_mean", key, name).size and interval(p, _ends(key))]
        for some, name in ((best, "n"), (points, "step"))
    )
    if not (best and points):
        return ""
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        lines.setdefault(str(point["method"]), []).append(point)
    xlabel = "KL (nats per response, on a square-root scale)"
    with new_figure(f"methods-{key}", [title], xlabel) as (figure, (axes,)):
        kl_scale(axes, columns([*best, *points], "kl_mean").max())
        x, y = measured(axes, best, key, INK, "o")
        label(axes, x[-1], y[-1], f"best of {best[-1]['n']:g}", (6, 4), INK)
        for i, (name, some) in enumerate(lines.items()):
            colour = METHOD_COLOURS[i % len(METHOD_COLOURS)]
            kl, value = columns(some, "kl_mean", key)
            axes.scatter(
                np.clip(kl, 0, None), value, s=22, color=colour, marker="s^DvPXo<>"[i % 9], alpha=0.8, linewidths=0,
                label=name_of(name),
            )  # fmt: skip
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right")
        return svg(figure, f"{title} against KL, of best-of-n and of the policies of each method")


def kl_scale(axes: Any, highest: float) -> None:
    """Give `axes` a square-root scale of KL from 0; on it the score of best-of-n is nearly a straight line."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
    nats = [0, 0.25, 1, 2, 4, 6, 9, 12, 16, 25, 36, 49]
    axes.set_xticks(nats, [f"{tick:g}" for tick in nats])
    axes.set_xlim(0, 1.05 * max(highest, 1))


def measured(
    axes: Any, points: Sequence[dict[str, Any]], key: str, colour: str, marker: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points of `frontier.json` against their KL, with 95 % intervals; returns their coordinates."""
    kl, y = columns(points, "kl_mean", key)
    x = np.clip(kl, 0, None)
    axes.vlines(x, *np.array([p[_ends(key)] for p in points]).T, color=colour, linewidth=1, alpha=0.5)
    axes.plot(x, y, color=colour, linewidth=1.2, marker=marker, markersize=4, alpha=0.8, clip_on=False)
    return x, y


def _ends(key: str) -> str:
    """The key of a figure's interval in `frontier.json`: score_mean -> score_ci95."""
    return f"{key.partition('_')[0]}_ci95"


def score_histogram(responses: Sequence[dict[str, Any]], algorithm: str, title: str, low: float, high: float) -> str:
    """Scores of the held-out responses from `low` to `high`, SFT above the policy, on the same axes."""
    sides = [columns(responses, key)[0] for key in ("sft_score", "policy_score")]
    if not all(map(len, sides)):
        return ""
    edges, width = np.linspace(low, high, 21, retstep=True)
    shares = [100 * np.histogram(scores, edges)[0] / len(scores) for scores in sides]
    means = [f"mean {written(scores.mean(), '{:.2f}')}: % of responses" for scores in sides]
    titles = [f"SFT (before {algorithm}), {means[0]}", f"policy (after {algorithm}), {means[1]}"]
    with new_figure("score-histogram", titles, title, TALL // 2) as (figure, all_axes):
        for axes, scores, share, colour in zip(all_axes, sides, shares, (BEFORE, AFTER), strict=True):
            axes.bar(edges[:-1], share, width=0.92 * width, align="edge", color=colour)
            axes.axvline(scores.mean(), color=INK, linewidth=1, linestyle=(0, (3, 2)))
            axes.set(xlim=(low - 0.2 * width, high + 0.2 * width), ylim=(0, 1.08 * max(np.max(shares), 1)))
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=5))
        return svg(figure, f"distribution of the scores of held-out responses, before and after {algorithm}")


def calibration(bins: Sequence[dict[str, Any]], of: str) -> str:
    """The share that is `of` ("positive" or "preferred") against its predicted probability, in bins."""
    points = columns(bins, "confidence", "positive", "count")
    predicted, observed, count = points[:, points[2] > 0]
    if not len(count):
        return ""
    xlabel = f"probability of {of} according to the reward model"
    with new_figure("calibration", [f"share {of}"], xlabel) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        label(axes, 0.5, 0.5, "perfectly calibrated", (8, -12), MUTED)
        axes.plot(predicted, observed, color=AFTER, linewidth=1.2, alpha=0.5)
        axes.scatter(predicted, observed, s=160 * (count / count.max()) + 12, color=AFTER, linewidths=0)
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        return svg(figure, f"share {of} against predicted probability, in bins")


def accuracy_by_margin(bins: Sequence[dict[str, Any]]) -> str:
    """Accuracy for {"margin": [low, high], "accuracy", "count"} each, with Wilson's 95 % interval."""
    bins = [b for b in bins if columns([b], "accuracy", "count").size and 0 <= b["accuracy"] <= 1 and b["count"] >= 1]
    if not bins:
        return ""
    right, count = columns(bins, "accuracy", "count")
    ends = np.array([wilson(round(share * n), round(n)) for share, n in zip(right, count, strict=True)])
    xlabel = "margin: difference of the two logits, or distance of one from 0"
    title, tick_line = "accuracy (%); dashed: guessing", 16  # points: the tick labels have two lines
    with new_figure("margins", [title], xlabel, TALL - tick_line, BOTTOM + tick_line) as (figure, (axes,)):
        x = np.arange(len(bins))
        axes.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.vlines(x, *100 * ends.T, color=AFTER, linewidth=2, alpha=0.5)
        axes.scatter(x, 100 * right, s=40, color=AFTER, linewidths=0, zorder=3)
        for i, share in enumerate(100 * right):
            label(axes, i, share, f"{share:.0f}", (7, 0))
        spans = [interval(b, "margin") for b in bins]
        names = [f"{span[0]:.2f}–{span[1]:.2f}" if span else "?" for span in spans]
        axes.set_xticks(x, [f"{name}\nn = {n:.0f}" for name, n in zip(names, count, strict=True)])
        axes.set_xlim(-0.5, len(x) - 0.5)
        return svg(figure, "accuracy of the reward model by margin")


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """(N,) mean over up to `reach` neighbours on either side, of `values` (N,); fewer neighbours at the ends."""
    window, middle = np.ones(2 * reach + 1), slice(reach, reach + len(values))
    return np.convolve(values, window)[middle] / np.convolve(np.ones(len(values)), window)[middle]


def _trend(axes: Any, steps: np.ndarray, values: np.ndarray, panel: Panel) -> None:
    """A thin line of the values, a thick line of their running mean, and its last value as text."""
    if len(values) > MOST_POINTS:
        parts = np.array_split(np.arange(len(values)), MOST_POINTS)
        steps, values = (np.array([a[part].mean() for part in parts]) for a in (steps, values))
    mean = running_mean(values, max(1, len(values) // 20))
    axes.plot(steps, values, color=panel.colour, linewidth=1, alpha=0.35, marker="o" if len(values) < 3 else "")
    axes.plot(steps, mean, color=panel.colour, linewidth=2)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.ticklabel_format(axis="y", useOffset=False)
    if np.ptp(values) <= 1e-9 * abs(mean[-1]):  # a constant: do not magnify rounding errors
        axes.set_ylim(mean[-1] - 0.2 * abs(mean[-1]) - 1e-6, mean[-1] + 0.2 * abs(mean[-1]) + 1e-6)
    label(axes, steps[-1], mean[-1], written(mean[-1], panel.form), (6, -4))


def label(axes: Any, x: float, y: float, text: str, offset: tuple[float, float], colour: str = INK) -> None:
    """Write beside a point; `offset` is in points of print."""
    axes.annotate(text, (x, y), offset, textcoords="offset points", color=colour, fontsize=11, annotation_clip=False)


@contextmanager
def new_figure(
    name: str, titles: Sequence[str], xlabel: str, height: int = TALL, bottom: int = BOTTOM
) -> Iterator[tuple[Figure, Any]]:
    """A figure in our style, whatever matplotlibrc the user has, and panels of `height` points, each with its title.

    Fixed margins align the figures, and the titles with their left edges; `name` makes the ids unique.
    """
    ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))}
    with matplotlib.rc_context(ours | _STYLE | {"svg.hashsalt": name}):
        whole = len(titles) * height + bottom
        figure = Figure(figsize=(WIDTH / 72, whole / 72))
        all_axes = figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(
            LEFT / WIDTH, bottom / whole, 1 - RIGHT / WIDTH, 1 - TOP / whole, hspace=TOP / (height - TOP)
        )
        for axes, title in zip(all_axes, titles, strict=True):
            axes.set_title(title, x=-LEFT / (WIDTH - LEFT - RIGHT))
        all_axes[-1].set_xlabel(xlabel)
        yield figure, all_axes


def svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element without prolog, metadata, fonts or literal colours."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    body = buffer.getvalue().decode("utf-8").partition("<svg")[2]
    box = re.findall(r'viewBox="[^"]*"', body)[0]
    body = body.partition(">")[2]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # figure_1, axes_1: not unique on the page
    body = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font-size: \1", body)  # matplotlib < 3.11
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body).replace("xlink:href", "href")
    body = re.sub(r"\s*\n\s*", " ", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, f"var(--{variable})")
    return f'<svg role="img" aria-label="{html.escape(description)}" {box}>{body}'.strip()
