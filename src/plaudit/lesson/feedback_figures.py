"""Figures of notebook 4."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator

from plaudit.feedback.biases import Effect
from plaudit.lesson.style import AFTER, BEFORE, COMPARED, MUTED, PALETTE, NotebookFigure, new_figure


def effects(groups: Mapping[str, Sequence[Effect]], known: Mapping[str, Mapping[str, float]]) -> NotebookFigure:
    """Estimated effects of each group with their intervals, a panel for each, beside the known strengths by name."""
    names = list(dict.fromkeys(name for of_group in known.values() for name in of_group))
    with new_figure(1, len(names), height=1.1 + 0.4 * len(groups), squeeze=False, sharey=True) as (figure, panels):
        for axes, name in zip(panels[0], names, strict=True):
            axes.axvline(0, color=MUTED, linewidth=1)
            for row, (group, found) in enumerate(groups.items()):
                for effect in (effect for effect in found if effect.name == name):
                    axes.plot([effect.low, effect.high], [row, row], color=AFTER, label="estimate, 95% interval")
                    axes.plot([effect.estimate], [row], "o", color=AFTER, markersize=7)
                axes.plot(
                    [known[group][name]], [row], "D", color=COMPARED, markersize=6, zorder=5, label="true strength"
                )
            axes.set(title=name, xlabel="log odds", ylim=(len(groups) - 0.5, -0.5))
            axes.grid(axis="y", visible=False)
        axes.set_yticks(range(len(groups)), list(groups))
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside upper right", ncols=2)
    return figure


def ceiling(votes: np.ndarray) -> NotebookFigure:
    """Accuracy of the best guess, and agreement of two people, by the share that prefers A; below, the (P, 2) votes."""
    share = np.linspace(0, 1, 201)
    with new_figure(2, 1, height=4.2, sharex=True, height_ratios=[3, 2]) as (figure, (axes, below)):
        best = np.maximum(share, 1 - share)
        axes.plot(100 * share, 100 * best, color=AFTER, label="the best guess about one person is right")
        axes.plot(100 * share, 100 * (share**2 + (1 - share) ** 2), color=COMPARED, label="two people agree")
        axes.set(title="probability (%)", ylim=(48, 102))
        axes.legend(loc="upper center")
        below.hist(100 * votes[:, 0] / votes.sum(1), bins=np.linspace(0, 100, 21), color=BEFORE, edgecolor="white")
        below.set(title="number of pairs", xlabel="share of votes for A (%)", xlim=(0, 100))
    return figure


def best_of_n(panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> NotebookFigure:
    """For each panel, by its title, and each reward, by its name: a mean under best-of-n against n."""
    with new_figure(1, len(panels), height=3.1, squeeze=False) as (figure, drawn):
        for axes, (title, rewards) in zip(drawn[0], panels.items(), strict=True):
            for (name, points), colour in zip(rewards.items(), PALETTE[2:], strict=False):
                axes.plot(list(points), list(points.values()), color=colour, marker="o", markersize=4, label=name)
            axes.set(xscale="log", title=title, xlabel="n")
            axes.xaxis.set_major_locator(FixedLocator(list(points)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:.0f}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
