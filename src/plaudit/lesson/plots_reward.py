"""Pictures of the second notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plaudit.lesson.style import AFTER, BEFORE, COST, INK, MUTED, Picture, picture, style


def bradley_terry(score_a: float, score_b: float) -> Picture:
    """The probability that the first is preferred, and the loss, against the difference of two scores."""
    gap = np.linspace(-5, 5, 201)
    share, here = 1 / (1 + np.exp(-gap)), score_a - score_b
    with style():
        figure, (left, right) = picture(1, 2, height=2.7, sharex=True)
        for axes, curve, at, title in (
            (left, 100 * share, 100 / (1 + np.exp(-here)), "probability that A is preferred (%)"),
            (right, -np.log(share), np.log1p(np.exp(-here)), "loss when A was preferred (nats)"),
        ):
            axes.plot(gap, curve, color=AFTER)
            axes.plot([here], [at], "o", color=COST, markersize=8, zorder=5)
            axes.annotate(
                f"{at:.0f}" if at > 10 else f"{at:.2f}",
                (here, at),
                (9, 5),
                textcoords="offset points",
                color=COST,
                fontweight="bold",
            )
            axes.set_title(title)
            axes.set_xlabel("score of A − score of B")
    return figure


def confusion(logits: np.ndarray, labels: np.ndarray) -> Picture:
    """Texts by what people said and what the model says, in counts and shares of a row."""
    counts = np.array([[((logits > 0) == said)[labels == truth].sum() for said in (0, 1)] for truth in (0, 1)])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with style():
        figure, axes = picture(height=2.9)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 else INK
            axes.text(
                column, row, f"{counts[row, column]}\n{share:.0%}", ha="center", va="center", color=colour, fontsize=13
            )
        axes.set_xticks([0, 1], ["negative", "positive"])
        axes.set_yticks([0, 1], ["negative", "positive"], rotation=90, va="center")
        axes.set_xlabel("the reward model says")
        axes.set_ylabel("people said")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def calibration(bins: Sequence[dict[str, Any]]) -> Picture:
    """Share of positive texts against predicted probability; `calibration` of `preference_statistics`."""
    said, found, count = (np.array([b[key] for b in bins]) for key in ("confidence", "positive", "count"))
    with style():
        figure, (axes, below) = picture(2, 1, height=4.2, sharex=True, height_ratios=[3, 1])
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
        half = 196 * np.sqrt(np.maximum(found * (1 - found), 0.25 / count) / count)
        ours = {"color": AFTER, "marker": "o", "linewidth": 1.6, "elinewidth": 1.2, "label": "the reward model"}
        axes.errorbar(100 * said, 100 * found, half, **ours)
        axes.legend(loc="upper left")
        axes.set(xlim=(-2, 102), ylim=(-4, 104))
        axes.set_title("texts that are positive (%), with 95 % intervals")
        below.bar(100 * said, count, width=6, color=AFTER, alpha=0.6)
        below.set_title("texts in each bin")
        below.set_xlabel("probability of positive according to the reward model (%)")
    return figure


def score_spread(logits: np.ndarray, labels: np.ndarray) -> Picture:
    """How the logits of negative and of positive texts are spread."""
    with style():
        figure, axes = picture(height=2.6)
        edges = np.linspace(min(logits.min(), -1), max(logits.max(), 1), 36)
        for truth, colour, name in ((0, COST, "people said negative"), (1, AFTER, "people said positive")):
            axes.hist(logits[labels == truth], edges, color=colour, alpha=0.55, label=name)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_title("held-out sentences")
        axes.set_xlabel("score (log odds of positive)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def beside_people(rows: Sequence[tuple[str, float, tuple[float, float] | None]], ceiling: float, title: str) -> Picture:
    """Agreement in percent, a dot each, from guessing on; and the ceiling that people set.

    Args:
        rows: who, share, and its 95 % interval if it has one.
    """
    with style():
        figure, axes = picture(height=1.2 + 0.42 * len(rows))
        for place, (who, share, ends) in enumerate(rows):
            colour = AFTER if "model" in who else BEFORE
            axes.hlines(place, 50, 100 * share, color=colour, linewidth=1, alpha=0.5)
            if ends is not None:
                axes.hlines(place, 100 * ends[0], 100 * ends[1], color=colour, linewidth=4, alpha=0.5)
            axes.plot([100 * share], [place], "o", color=colour, markersize=9)
            axes.annotate(
                f"{100 * share:.1f}",
                (100 * share, place),
                (-9, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        axes.axvline(100 * ceiling, color=COST, linewidth=1.6, linestyle=(0, (4, 3)))
        axes.text(100 * ceiling + 0.7, len(rows) - 0.55, "ceiling", color=COST, fontweight="bold", va="bottom")
        axes.set_yticks(range(len(rows)), [who for who, _, _ in rows])
        axes.set(xlim=(50, 100), ylim=(len(rows) - 0.5, -0.75))
        axes.set_xlabel(title)
        axes.grid(axis="y", visible=False)
    return figure
