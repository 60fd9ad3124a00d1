"""Two trainings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.report.figures import column
from plaudit.lesson.style import AFTER, COST, GREEN, MUTED, PURPLE, Picture, picture, style

PANELS = {
    "score": "score of the reward model (−1 to 1)",
    "kl": "KL from SFT (nats a response)",
    "distinct_2": "different pairs of tokens (share)",
    "perplexity_ref": "perplexity under SFT",
}


def side_by_side(runs: Mapping[str, Sequence[Mapping[str, Any]]], warned: Mapping[str, int]) -> Picture:
    """PPO's metrics over the iterations, a line for each of several runs.

    Args:
        runs: the lines of metrics.jsonl by the run's name in the legend.
        warned: iterations to mark, each with what it says in the legend.
    """
    with style():
        figure, panels = picture(2, 2, height=4.6, sharex=True)
        for axes, (key, title) in zip(panels.flat, PANELS.items(), strict=True):
            for colour, (name, rows) in zip((AFTER, COST, GREEN, PURPLE), runs.items(), strict=False):
                lines = [dict(row) for row in rows]
                axes.plot(column(lines, "step"), column(lines, key), color=colour, label=name)
            for dashes, (what, iteration) in zip(((1, 1), (4, 2), (6, 2, 1, 2)), warned.items(), strict=False):
                axes.axvline(iteration, color=MUTED, linewidth=1.2, linestyle=(0, dashes), label=what)
            axes.set_title(title)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            if key != "score":
                axes.set_ylim(bottom=0)
        for axes in panels[-1]:
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
