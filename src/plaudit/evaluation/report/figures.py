"""The figures of a report: inline SVG that takes its colours and its letters from the page around it.

Figures are drawn in placeholder colours that become the page's CSS variables, so one drawing serves the light
and the dark page. Every function returns "" when there is nothing to draw.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Placeholder -> CSS variable. The page gives these Okabe-Ito's values, which colour-blind people tell apart.
INK, MUTED, GRID, BEFORE, AFTER, COST = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BEFORE: "before", AFTER: "after", COST: "cost"}

WIDTH = 420  # points; a figure fills a phone and half a desk screen, so its letters stay readable on both
LEFT, RIGHT, TOP, BOTTOM = 50, 54, 32, 42  # points around the axes, for tick labels, end labels, titles
TALL = 260  # points of a figure with a single panel, less BOTTOM
MOST_POINTS = 400  # a longer series is averaged down to this many points
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
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
    """One quantity of a metrics file, drawn over the steps.

    Attributes:
        key: its name in the file.
        title: its name and unit for readers.
        form: format of the value written at the end of the line.
        colour: a placeholder of this module.
    """

    key: str
    title: str
    form: str = "{:.2f}"
    colour: str = AFTER


def column(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """(rows,) the values of `key` in float64; NaN where one is missing, null or not a finite number."""
    values = [row.get(key) for row in rows]
    plain = [v if isinstance(v, (int, float)) and not isinstance(v, bool) else np.nan for v in values]
    array = np.array(plain, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def series(name: str, rows: Sequence[dict[str, Any]], panels: Sequence[Panel], unit: str, height: int = TALL) -> str:
    """Quantities of a metrics file over its steps, one panel below the other.

    Args:
        name: of this figure, unlike that of any other on the page.
        rows: lines of a metrics file.
        panels: what to draw; a panel without a single value is left out.
        unit: what a step is: "iteration" or "optimizer step".
        height: of one panel with its title, in points.
    """
    steps = column(rows, "step")
    drawn = [(p, np.isfinite(steps) & np.isfinite(column(rows, p.key))) for p in panels]
    drawn = [(p, keep) for p, keep in drawn if keep.any()]
    if not drawn:
        return ""
    with _style(name):
        figure, all_axes = _figure(len(drawn), height)
        for axes, (panel, keep) in zip(all_axes, drawn, strict=True):
            _trend(axes, steps[keep], column(rows, panel.key)[keep], panel)
        all_axes[-1].set_xlabel(unit)
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return _svg(figure, ", ".join(p.title for p, _ in drawn) + f" over each {unit}")


def score_against_kl(rows: Sequence[dict[str, Any]]) -> str:
    """What each nat of KL bought: a point an iteration, stronger as training goes on."""
    score, kl, step = column(rows, "score"), column(rows, "kl"), column(rows, "step")
    keep = np.flatnonzero(np.isfinite(score) & np.isfinite(kl) & np.isfinite(step))
    if not len(keep):
        return ""
    keep = keep[np.linspace(0, len(keep) - 1, min(len(keep), MOST_POINTS)).round().astype(int)]
    x, y, step = np.sqrt(np.clip(kl[keep], 0, None)), score[keep], step[keep]
    with _style("score-kl"):
        figure, (axes,) = _figure(1, TALL)
        for i, strength in enumerate(np.linspace(0.15, 0.9, len(x))):
            axes.scatter(x[i], y[i], s=26, color=AFTER, alpha=strength, linewidths=0)
        for i in sorted({0, len(x) - 1}):
            axes.scatter(x[i], y[i], s=40, facecolors="none", edgecolors=INK, linewidths=1)
            _label(axes, x[i], y[i], f"iteration\n{step[i]:.0f}", (8, -8), "left")
        axes.margins(0.03, 0.1)
        _title(axes, "mean score (−1 to 1)")
        axes.set_xlabel("√KL (square root of nats per response)")
        return _svg(figure, "mean score against the square root of KL, one point an iteration")


def frontier(best: Sequence[dict[str, Any]], policies: Sequence[dict[str, Any]], key: str, title: str) -> str:
    """Best-of-n and PPO's policies against their KL, with 95 % intervals: the points of `frontier.json`."""
    lines = {"": list(best)}
    for point in policies:
        lines.setdefault(f"{point['kl_coef']:g}", []).append(point)
    if not best:
        return ""
    with _style(f"frontier-{key}"):
        figure, (axes,) = _figure(1, TALL)
        kl_scale(axes, max(column([*best, *policies], "kl_mean")))
        for (name, points), marker in zip(lines.items(), itertools.cycle("os^DvP")):
            colour = AFTER if name else COST
            x, y = measured(axes, points, key, colour, marker)
            _label(axes, x[-1], y[-1], name or f"best of {points[-1].get('n')}", (6, 4), "left", colour)
        _title(axes, title)
        axes.set_xlabel("KL (nats per response, on a square-root scale)")
        return _svg(figure, f"{title} against KL, of best-of-n and of PPO's policies")


def kl_scale(axes: Any, highest: float) -> None:
    """A square-root scale of KL from 0: what best-of-n gains is nearly straight on it."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
    nats = [0, 0.25, 1, 2, 4, 6, 9, 12, 16, 25, 36, 49]
    axes.set_xticks(nats, [f"{tick:g}" for tick in nats])
    axes.set_xlim(0, 1.05 * max(highest, 1))


def measured(
    axes: Any, points: Sequence[dict[str, Any]], key: str, colour: str, marker: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points of `frontier.json` against their KL, with 95 % intervals; returns where they are."""
    x, y = np.clip(column(points, "kl_mean"), 0, None), column(points, key)
    ends = np.array([p[f"{key.partition('_')[0]}_ci95"] for p in points])
    axes.vlines(x, *ends.T, color=colour, linewidth=1, alpha=0.5)
    axes.plot(x, y, color=colour, linewidth=1.2, marker=marker, markersize=4, alpha=0.8, clip_on=False)
    return x, y


def score_histogram(responses: Sequence[dict[str, Any]]) -> str:
    """Scores of the held-out responses, SFT above policy, on the same axes."""
    sides = [(column(responses, "sft_score"), "SFT (before PPO)", BEFORE)]
    sides += [(column(responses, "policy_score"), "policy (after PPO)", AFTER)]
    sides = [(values[np.isfinite(values)], title, colour) for values, title, colour in sides]
    if not all(len(values) for values, _, _ in sides):
        return ""
    with _style("score-histogram"):
        figure, all_axes = _figure(2, TALL // 2)
        edges = np.linspace(-1, 1, 21)
        shares = [100 * np.histogram(values, edges)[0] / len(values) for values, _, _ in sides]
        for axes, share, (values, title, colour) in zip(all_axes, shares, sides, strict=True):
            axes.bar(edges[:-1], share, width=0.092, align="edge", color=colour)
            axes.axvline(values.mean(), color=INK, linewidth=1, linestyle=(0, (3, 2)))
            axes.set(xlim=(-1.02, 1.02), ylim=(0, 1.08 * np.max(shares)))
            _title(axes, f"{title}, mean {_minus(f'{values.mean():.2f}')}: % of responses")
        all_axes[-1].set_xticks([-1, -0.5, 0, 0.5, 1])
        all_axes[-1].set_xlabel("score of a response (−1 to 1)")
        return _svg(figure, "how the scores of held-out responses are spread, before and after PPO")


def calibration(bins: Sequence[dict[str, Any]], of: str) -> str:
    """How often the reward model is right when it says it is sure: on the diagonal it is calibrated.

    Args:
        bins: {"confidence", "positive", "count"} each.
        of: what the confidence is about, such as "positive".
    """
    said, found, count = (column(bins, key) for key in ("confidence", "positive", "count"))
    keep = np.isfinite(said) & np.isfinite(found) & (count > 0)
    if not keep.any():
        return ""
    with _style("calibration"):
        figure, (axes,) = _figure(1, TALL)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        _label(axes, 0.5, 0.5, "perfectly calibrated", (8, -12), "left", MUTED)
        axes.plot(said[keep], found[keep], color=AFTER, linewidth=1.2, alpha=0.5)
        axes.scatter(said[keep], found[keep], s=160 * count[keep] / count[keep].max() + 12, color=AFTER, linewidths=0)
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        _title(axes, f"share {of}")
        axes.set_xlabel(f"probability of {of} according to the reward model")
        return _svg(figure, f"share {of} against predicted probability, in bins")


def accuracy_by_margin(bins: Sequence[dict[str, Any]]) -> str:
    """Accuracy for {"margin": [low, high], "accuracy", "count"} each, with Wilson's 95 % interval."""
    right, count = column(bins, "accuracy"), column(bins, "count")
    keep = np.flatnonzero(np.isfinite(right) & (count > 0))
    if not len(keep):
        return ""
    right, count = right[keep], count[keep]
    low, high = wilson(right, count)
    with _style("margins"):
        figure, (axes,) = _figure(1, TALL - 16, BOTTOM + 16)  # tick labels have two lines
        x = np.arange(len(keep))
        axes.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.vlines(x, 100 * low, 100 * high, color=AFTER, linewidth=2, alpha=0.5)
        axes.scatter(x, 100 * right, s=40, color=AFTER, linewidths=0, zorder=3)
        for i in range(len(keep)):
            _label(axes, i, 100 * right[i], f"{100 * right[i]:.0f}", (7, 0), "left")
        axes.set_xticks(x, [f"{_span(bins[k])}\nn = {n:.0f}" for k, n in zip(keep.tolist(), count, strict=True)])
        axes.set_xlim(-0.5, len(x) - 0.5)
        _title(axes, "accuracy (%); dashed: guessing")
        axes.set_xlabel("margin: distance between the two logits, or of one from 0")
        return _svg(figure, "accuracy of the reward model by margin")


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's 95 % interval for shares of `count` trials; unlike the normal one it stays in [0, 1]."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return middle - half, middle + half


def _trend(axes: Any, steps: np.ndarray, values: np.ndarray, panel: Panel) -> None:
    """A thin line of the values, a thick one of their running mean, and the last value in figures."""
    if len(values) > MOST_POINTS:
        parts = np.array_split(np.arange(len(values)), MOST_POINTS)
        steps, values = (np.array([a[part].mean() for part in parts]) for a in (steps, values))
    mean = running_mean(values, max(1, len(values) // 20))
    axes.plot(steps, values, color=panel.colour, linewidth=1, alpha=0.35, marker="o" if len(values) < 3 else "")
    axes.plot(steps, mean, color=panel.colour, linewidth=2)
    _title(axes, panel.title)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.ticklabel_format(axis="y", useOffset=False)
    if np.ptp(values) <= 1e-9 * abs(mean[-1]):  # a constant: show no rounding noise
        axes.set_ylim(mean[-1] - 0.2 * abs(mean[-1]) - 1e-6, mean[-1] + 0.2 * abs(mean[-1]) + 1e-6)
    _label(axes, steps[-1], mean[-1], _minus(panel.form.format(mean[-1])), (6, -4), "left")


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over up to `reach` neighbours on either side; fewer at the ends, never a made-up value."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _label(
    axes: Any, x: float, y: float, text: str, offset: tuple[float, float], align: str, colour: str = INK
) -> None:
    axes.annotate(
        text, (x, y), offset, textcoords="offset points", ha=align, color=colour, fontsize=11, annotation_clip=False
    )


def _span(row: dict[str, Any]) -> str:
    """A margin bin in words; the last one may be open, with null or infinity above."""
    margin = row.get("margin")
    low, high = margin if isinstance(margin, list) and len(margin) == 2 else (None, None)
    if not isinstance(low, (int, float)):
        return "?"
    return f"{low:.2f}–{high:.2f}" if isinstance(high, (int, float)) and np.isfinite(high) else f"over {low:.2f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _style(name: str) -> Any:
    """A context with our drawing style whatever the user's matplotlibrc says; `name` keeps ids apart."""
    ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))}
    return matplotlib.rc_context(ours | _STYLE | {"svg.hashsalt": name})


def _figure(panels: int, height: int, bottom: int = BOTTOM) -> tuple[Figure, Any]:
    """A figure and its panels (panels,), each with `height` points for itself and its title, sharing the x axis.

    Margins are fixed: axes line up from figure to figure, and laying out costs nothing.
    """
    whole, own = panels * height + bottom, height - TOP
    figure = Figure(figsize=(WIDTH / 72, whole / 72))
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        LEFT / WIDTH, bottom / whole, 1 - RIGHT / WIDTH, 1 - TOP / whole, hspace=TOP / own if panels > 1 else 0
    )
    return figure, axes


def _title(axes: Any, text: str) -> None:
    """Above the axes, from the left edge of the figure."""
    axes.set_title(text, x=-LEFT / (WIDTH - LEFT - RIGHT))


def _svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element: no prolog, no metadata, no fonts, no colours of its own."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue().decode("utf-8")
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None  # matplotlib always writes one
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # figure_1, axes_1: the same in every figure
    body = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font-size: \1", body)  # matplotlib < 3.11
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body).replace("xlink:href", "href")
    body = re.sub(r"\s*\n\s*", " ", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, f"var(--{variable})")
    return f'<svg role="img" aria-label="{html.escape(description)}" {box.group()}>{body}'.strip()
