"""PPO beside best-of-n: what each nat of KL buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.hacking import Window
from plaudit.evaluation.report.figures import column, kl_scale, measured
from plaudit.lesson.style import AFTER, COST, Picture, picture, style

_PANELS = (("score_mean", "score of the reward model (−1 to 1)"), ("judge_positive", "called positive by the judge"))


def beside_best_of_n(
    content: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], windows: Sequence[Window]
) -> Picture:
    """Score and the judge's share against KL: best-of-n, PPO's way there, and where it ended.

    Args:
        content: of frontier.json; its last policy is the end of the way.
        metrics: PPO's metrics.jsonl: the rollouts of every iteration.
        windows: what the judge said of these rollouts, some iterations at a time.
    """
    best, end = list(content["best_of_n"]), [content["ppo"][-1]]
    ways = {"score_mean": way(metrics), "judge_positive": judged_way(metrics, windows)}
    highest = max(*(p["kl_mean"] for p in [*best, *end]), *ways["score_mean"][0])
    with style():
        figure, panels = picture(1, 2, height=3.9)
        for axes, (key, title) in zip(panels, _PANELS, strict=True):
            axes.plot(
                *ways[key], "o", color=AFTER, markersize=3.5, alpha=0.3, markeredgewidth=0, label="PPO while it trains"
            )
            x, y = measured(axes, best, key, COST, "o")
            axes.plot([], [], color=COST, marker="o", markersize=4, label="best of n")
            for place, (kl, value) in enumerate(zip(x, y, strict=True)):
                if place == 0 or (len(x) - 1 - place) % 2 == 0:
                    offset, align = ((8, -4), "left") if place == 0 else ((-6, 5), "right")
                    text = f"n = {best[place]['n']}"
                    axes.annotate(text, (kl, value), offset, textcoords="offset points", ha=align, color=COST)
            at = measured(axes, end, key, AFTER, "D")
            axes.plot(*at, "D", color=AFTER, markersize=8, markeredgecolor="white", zorder=5, label="PPO at its end")
            kl_scale(axes, highest)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.set_title(title)
            axes.set_xlabel("KL from SFT (nats a response, √ scale)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def way(metrics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """KL and score of every iteration's own rollout."""
    lines = [dict(line) for line in metrics]
    return column(lines, "kl"), column(lines, "score")


def judged_way(metrics: Sequence[Mapping[str, Any]], windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Mean KL, and the share that the judge calls positive, of every window of iterations."""
    kl, begin, nats = way(metrics)[0], 0, []
    for window in windows:
        nats.append(kl[begin : window.step].mean())
        begin = window.step
    return np.array(nats), np.array([w.judge_positive for w in windows])
