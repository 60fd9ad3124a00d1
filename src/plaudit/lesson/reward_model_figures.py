"""Figures of notebook 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plaudit.lesson.style import AFTER, BEFORE, COMPARED, INK, MUTED, NotebookFigure, new_figure


def bradley_terry(score_a: float, score_b: float) -> NotebookFigure:
    """Probability that A is preferred, and the loss if it was, against the difference of the scores."""
    gap, here = np.linspace(-5, 5, 201), score_a - score_b
    with new_figure(1, 2, height=2.7, sharex=True) as (figure, panels):
        for axes, curve, form, title in (
            (panels[0], lambda x: 100 / (1 + np.exp(-x)), "{:.0f}", "probability that A is preferred (%)"),
            (panels[1], lambda x: np.log1p(np.exp(-x)), "{:.2f}", "loss when A was preferred (nats)"),
        ):
            axes.plot(gap, curve(gap), color=AFTER)
            axes.plot([here], [curve(here)], "o", color=COMPARED, markersize=8, zorder=5)
            place = {"xytext": (9, 5), "textcoords": "offset points"}
            axes.annotate(form.format(curve(here)), (here, curve(here)), **place, color=COMPARED, fontweight="bold")
            axes.set(title=title, xlabel="score of A − score of B")
    return figure


def confusion(logits: np.ndarray, labels: np.ndarray) -> NotebookFigure:
    """Confusion matrix: human labels in rows, the model's in columns; counts and shares of each row."""
    counts = np.array([[((logits > 0) == guess)[labels == label].sum() for guess in (0, 1)] for label in (0, 1)])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with new_figure(height=2.9) as (figure, axes):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.1)
        for (row, column), share in np.ndenumerate(shares):
            text, colour = f"{counts[row, column]}\n{share:.0%}", "white" if share > 0.6 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
        axes.set_xticks([0, 1], ["negative", "positive"])
        axes.set_yticks([0, 1], ["negative", "positive"], rotation=90, va="center")
        axes.set(xlabel="label of the reward model", ylabel="human label")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def calibration(bins: Sequence[Mapping[str, Any]]) -> NotebookFigure:
    """Share of positive texts against the predicted probability, by the bins of the reward model's summary."""
    confidence, positive, count = (np.array([b[key] for b in bins]) for key in ("confidence", "positive", "count"))
    half_width = 1.96 * np.sqrt(np.maximum(positive * (1 - positive), 0.25 / count) / count)
    with new_figure(2, 1, height=4.2, sharex=True, height_ratios=[3, 1]) as (figure, (axes, below)):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
        look = {"color": AFTER, "marker": "o", "linewidth": 1.6, "elinewidth": 1.2, "label": "reward model"}
        axes.errorbar(100 * confidence, 100 * positive, 100 * half_width, **look)
        axes.legend(loc="upper left")
        axes.set(xlim=(-2, 102), ylim=(-4, 104), title="share of positive texts (%), with 95% intervals")
        below.bar(100 * confidence, count, width=6, color=AFTER, alpha=0.6)
        below.set(title="number of texts", xlabel="predicted probability of positive (%)")
    return figure


def logit_histogram(logits: np.ndarray, labels: np.ndarray) -> NotebookFigure:
    """Histograms of the logits of negative and of positive texts."""
    edges = np.linspace(min(logits.min(), -1), max(logits.max(), 1), 36)
    with new_figure(height=2.6) as (figure, axes):
        for label, colour, name in ((0, COMPARED, "human label: negative"), (1, AFTER, "human label: positive")):
            axes.hist(logits[labels == label], edges, color=colour, alpha=0.55, label=name)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(title="number of held-out sentences", xlabel="score (log odds of positive)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def agreement(shares: Mapping[str, float], ceiling: float, title: str) -> NotebookFigure:
    """Agreement with people's votes, 0 to 1, of each person or model ("model" in the name), and people's ceiling."""
    with new_figure(height=1.2 + 0.42 * len(shares)) as (figure, axes):
        for row, (name, share) in enumerate(shares.items()):
            colour = AFTER if "model" in name else BEFORE
            axes.hlines(row, 50, 100 * share, color=colour, linewidth=1, alpha=0.5)
            axes.plot([100 * share], [row], "o", color=colour, markersize=9)
            place = {"xytext": (-9, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(f"{100 * share:.1f}", (100 * share, row), **place, color=colour, bbox=box)
        axes.axvline(100 * ceiling, color=COMPARED, linewidth=1.6, linestyle=(0, (4, 3)))
        axes.text(100 * ceiling + 0.7, len(shares) - 0.55, "ceiling", color=COMPARED, fontweight="bold", va="bottom")
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set(xlim=(50, 100), ylim=(len(shares) - 0.5, -0.75), xlabel=title)
        axes.grid(axis="y", visible=False)
    return figure
