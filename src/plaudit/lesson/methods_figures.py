"""Figures of notebook 5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from plaudit.evaluation.report.figures import kl_scale, measured
from plaudit.evaluation.report.methods import name_of
from plaudit.lesson.style import AFTER, COMPARED, INK, MUTED, PALETTE, NotebookFigure, new_figure

_Z = 1.96  # standard errors on either side of a 95% interval
_COLOURS = (*PALETTE, INK)
_MARKERS = "sD^vPX"


@dataclass(frozen=True)
class Estimates:
    """Mean and noise of many estimates of one gradient, each with half of its 95% interval."""

    mean: np.ndarray  # (P,)
    half: np.ndarray  # (P,)
    noise: float  # root of the mean squared distance of an estimate from the mean of all
    noise_half: float


def estimates(gradients: Any) -> Estimates:
    """Of (N, P) gradients, one for each of N batches."""
    found = np.asarray(gradients, dtype=float)
    mean = found.mean(0)
    distance = ((found - mean) ** 2).sum(1)  # squared
    noise, error = float(np.sqrt(distance.mean())), distance.std(ddof=1) / np.sqrt(len(found))
    half = _Z * found.std(0, ddof=1) / np.sqrt(len(found))
    return Estimates(mean, half, noise, float(_Z * error / (2 * noise)) if noise else 0.0)


def routes(exact: Any, found: Mapping[str, Estimates], names: Sequence[str]) -> NotebookFigure:
    """Above, the mean gradient of each route beside the exact one (P,), whose entries are `names`; below, its noise."""
    places = np.arange(len(names))
    width = 0.7 / len(found)
    with new_figure(2, 1, height=5.2, height_ratios=[3, 2]) as (figure, (above, below)):
        above.hlines(exact, places - 0.42, places + 0.42, color=INK, linewidth=1.2, label="exact")
        for i, ((name, route), colour) in enumerate(zip(found.items(), cycle(_COLOURS), strict=False)):
            x = places + (i - (len(found) - 1) / 2) * width
            above.errorbar(x, route.mean, route.half, fmt="o", color=colour, markersize=3.5, linewidth=1.5)
            below.barh(i, route.noise, xerr=route.noise_half, color=colour, height=0.6, ecolor=INK)
            below.text(route.noise + route.noise_half, i, f"  {name}", va="center", color=INK)
        above.set_xticks(places, names)
        above.tick_params(axis="x", length=0)
        above.grid(axis="x", visible=False)
        above.set_title("mean gradient of each logit, with 95% intervals; colours as below")
        above.legend(loc="upper right")
        below.set_yticks([])
        below.invert_yaxis()
        below.set_xlim(0, 1.4 * max(route.noise for route in found.values()))
        below.set_title("noise: distance of one batch's gradient from the mean")
        below.set_xlabel("root mean square (score per unit of a logit)")
    return figure


def weight_of_a_prompt(solved: Sequence[float], gradients: Mapping[str, Sequence[float]]) -> NotebookFigure:
    """The mean gradient of a prompt against the share of right responses to it, a line for each method.

    The gradients are multiples of that of a prompt of which half of the responses are right.
    """
    with new_figure(height=2.9) as (figure, axes):
        for (name, values), colour in zip(gradients.items(), cycle((INK, *PALETTE[3:])), strict=False):
            axes.plot(100 * np.asarray(solved), values, color=colour, label=name)
        axes.set(
            xlim=(0, 100), ylim=(0, 1.05), title="mean gradient of a prompt (1: where half of the responses are right)"
        )
        axes.set_xlabel("responses to the prompt that are right (%)")
        axes.legend(loc="lower center")
    return figure


def small_frontier(
    optima: Sequence[tuple[float, float]],
    best: Mapping[int, tuple[float, float]],
    others: Mapping[str, tuple[float, float]],
) -> NotebookFigure:
    """Mean score against KL, as pairs (KL, score): the optima for all kl_coef, best-of-n by n, and other policies."""
    with new_figure(height=3.4) as (figure, axes):
        axes.plot(*np.transpose(optima), color=AFTER, label="optimum, for every kl_coef")
        axes.plot(*np.transpose(list(best.values())), "o", color=COMPARED, markersize=5, label="best-of-n")
        for n, place in best.items():
            if n > 1:
                text = {"xytext": (-6, 5), "ha": "right", "color": COMPARED, "fontsize": 9}
                axes.annotate(f"n = {n}", place, textcoords="offset points", **text)
        for (name, place), marker, colour in zip(others.items(), cycle(_MARKERS), cycle(PALETTE[2:]), strict=False):
            axes.plot(*place, marker, color=colour, markersize=7, linestyle="", label=name)
        kl_scale(axes, max(kl for kl, _ in [*optima, *best.values(), *others.values()]))
        axes.set(title="mean score", xlabel="KL from the reference (nats per response, √ scale)")
        axes.legend(loc="lower right")
    return figure


def methods_figure(content: Mapping[str, Any]) -> NotebookFigure:
    """Score and judge against KL, from methods.json: best-of-n, and every policy of each method.

    The policies of one training are joined from the SFT model on. The last one has a large marker and its interval.
    """
    best, points = list(content["best_of_n"]), list(content["points"])
    names = list(dict.fromkeys(point["method"] for point in points))
    keys = {
        "score": ("score_mean", "score of the reward model (−1 to 1)"),
        "judge": ("judge_positive", "share judged positive"),
    }
    keys = {of: titled for of, titled in keys.items() if best[0].get(titled[0]) is not None}
    with new_figure(1, len(keys), height=3.9, squeeze=False) as (figure, panels):
        for axes, (of, (key, title)) in zip(panels[0], keys.items(), strict=True):
            measured(axes, best, key, MUTED, "o")
            axes.plot([], [], color=MUTED, marker="o", markersize=4, label="best-of-n, sampled")
            for point in best[1:]:
                place = (point["kl_mean"], point[key])
                axes.annotate(f"{point['n']}", place, (-4, 6), textcoords="offset points", color=MUTED, fontsize=8.5)
            for i, name in enumerate(names):
                look = {"color": PALETTE[1:][i % 5], "marker": _MARKERS[i % 6]}
                label = "best-of-n, imitated" if name == "best_of_n" else name_of(name)
                axes.plot([], [], linestyle="", markersize=8, markeredgecolor="white", label=label, **look)
                for seed in dict.fromkeys(point["seed"] for point in points if point["method"] == name):
                    line = [best[0], *(p for p in points if (p["method"], p["seed"]) == (name, seed))]
                    x, y = ([point[k] for point in line] for k in ("kl_mean", key))
                    axes.plot(x, y, markevery=range(1, len(x) - 1), markersize=3.5, linewidth=1.2, alpha=0.7, **look)
                    axes.vlines(x[-1], *line[-1][f"{of}_ci95"], color=look["color"], linewidth=1.2)
                    axes.plot(x[-1:], y[-1:], markersize=8, markeredgecolor="white", linestyle="", **look)
            kl_scale(axes, max(point["kl_mean"] for point in [*best, *points]))
            axes.set(title=title, xlabel="KL from SFT (nats per response, √ scale)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
