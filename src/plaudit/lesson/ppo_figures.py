"""Figures of notebook 3."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, MultipleLocator
from torch import Tensor

from plaudit.evaluation.report.figures import columns, kl_scale, measured
from plaudit.evaluation.report.words import written
from plaudit.evaluation.windows import Window
from plaudit.lesson.style import AFTER, BEFORE, COMPARED, GREY, INK, MUTED, PALETTE, NotebookFigure, new_figure


def optimum_by_kl_coef(names: Sequence[str], optima: Mapping[float, Sequence[float]]) -> NotebookFigure:
    """Probability of each response under the optimal policy of each kl_coef, in the order of `names`."""
    kl_coefs = sorted(optima, reverse=True)
    with new_figure(height=3.2) as (figure, axes):
        axes.set_prop_cycle(color=PALETTE)
        axes.plot(kl_coefs, [optima[kl_coef] for kl_coef in kl_coefs], label=names)
        axes.set(xscale="log", xlim=(kl_coefs[0], kl_coefs[-1]), ylim=(-0.02, 1.02))
        _plain_ticks(axes.xaxis, [10, 3, 1, 0.3, 0.1, 0.03])
        axes.set_title("probability under the optimal policy")
        axes.set_xlabel("kl_coef (score per nat); the KL penalty gets weaker to the right")
        figure.legend(loc="outside right center")
    return figure


def clipped_objective(clip_range: float) -> NotebookFigure:
    """PPO's objective for one token against its ratio, for a positive and a negative advantage."""
    ratios = np.linspace(0.4, 1.6, 241)
    with new_figure(1, 2, height=3.0, sharex=True) as (figure, panels):
        for axes, sign, title in zip(panels, (1, -1), ("> 0: more likely", "< 0: less likely"), strict=True):
            unclipped = sign * ratios
            clipped = np.minimum(unclipped, sign * np.clip(ratios, 1 - clip_range, 1 + clip_range))
            flat, shade = clipped < unclipped, {"transform": axes.get_xaxis_transform(), "color": COMPARED}
            axes.plot(ratios, unclipped, color=GREY, linewidth=1.2, linestyle=(0, (3, 2)), label="unclipped")
            axes.plot(ratios, clipped, color=AFTER, linewidth=2.5, label="clipped: what PPO maximises")
            axes.fill_between(ratios, 0, 1, where=flat, alpha=0.15, linewidth=0, **shade)
            axes.text(ratios[flat].mean(), 0.06, "no gradient", ha="center", **shade)
            axes.axvline(1, color=MUTED, linewidth=0.8)
            axes.set(title=f"advantage {title}", xlabel="ratio: p now / p in the rollout")
            axes.xaxis.set_major_locator(MultipleLocator(0.2))
            axes.yaxis.set_major_locator(MultipleLocator(0.4))
        panels[0].set_ylabel("objective / |advantage|")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def update_scatter(advantages: Float[Tensor, "N"], ratios: Float[Tensor, "N"], clip_range: float) -> NotebookFigure:
    """The ratio of each token after an update, against the token's advantage."""
    x, y = advantages.cpu().numpy(), ratios.cpu().numpy()
    tenths = np.array_split(np.argsort(x), 10)
    limit = max(np.quantile(np.abs(np.log(y)), 0.999), 2 * clip_range)
    with new_figure(height=3.2) as (figure, axes):
        axes.axhspan(1 - clip_range, 1 + clip_range, color=GREY, alpha=0.12, linewidth=0, label="within clip_range")
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.scatter(x, y, s=7, color=AFTER, alpha=0.25, linewidths=0, label="one token")
        means = ([values[tenth].mean() for tenth in tenths] for values in (x, y))
        axes.plot(*means, color=COMPARED, marker="o", markersize=4, label="mean of a tenth of the tokens")
        axes.set(yscale="log", ylim=(np.exp(-limit), np.exp(limit)))
        _plain_ticks(axes.yaxis, [0.25, 0.5, 0.8, 1, 1.25, 2, 4])
        axes.set_xlabel("advantage of the token (whitened: in standard deviations)")
        axes.set_title("ratio after the update: p now / p in the rollout")
        axes.legend(loc="upper left")
    return figure


def score_histograms(responses: Sequence[Mapping[str, Any]]) -> NotebookFigure:
    """Scores and judge probabilities before and after PPO, from the lines of responses.jsonl."""
    with new_figure(2, 2, height=3.6, sharex="col", sharey="col") as (figure, panels):
        for row, (model, name, colour) in enumerate((("sft", "SFT", BEFORE), ("policy", "PPO", AFTER))):
            for axes, key, low in zip(panels[row], ("score", "judge"), (-1, 0), strict=True):
                values = np.array([line[f"{model}_{key}"] for line in responses], dtype=float)
                weights = np.full(len(values), 100 / len(values))
                axes.hist(values, np.linspace(low, 1, 21), weights=weights, color=colour, rwidth=0.92)
                axes.axvline(values.mean(), color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
                axes.set(title=f"{name}, mean {written(values.mean(), '{:.2f}')}: % of responses", xlim=(low, 1))
        panels[1, 0].set_xlabel("score of the reward model (−1 to 1)")
        panels[1, 1].set_xlabel("judge's probability of positive")
    return figure


def frontier_figure(
    frontier: Mapping[str, Any], metrics: Sequence[dict[str, Any]], windows: Sequence[Window]
) -> NotebookFigure:
    """Score and judge against KL: best-of-n, PPO during training, and PPO at the end.

    From frontier.json, the lines of PPO's metrics.jsonl, and what the judge found in windows of iterations.
    """
    best, end = list(frontier["best_of_n"]), [frontier["ppo"][-1]]
    kl, starts = columns(metrics, "kl")[0], [0, *(window.step for window in windows)]
    window_kl = [kl[start : window.step].mean() for start, window in zip(starts, windows, strict=False)]
    highest = max(*(point["kl_mean"] for point in [*best, *end]), *kl)
    with new_figure(1, 2, height=3.9) as (figure, panels):
        for axes, key, title, x, y in (
            (panels[0], "score_mean", "score of the reward model (−1 to 1)", kl, columns(metrics, "score")[0]),
            (panels[1], "judge_positive", "share judged positive", window_kl, [w.judge_positive for w in windows]),
        ):
            axes.plot(x, y, "o", color=AFTER, markersize=3.5, alpha=0.3, markeredgewidth=0, label="PPO during training")
            places = np.transpose(measured(axes, best, key, COMPARED, "o"))
            axes.plot([], [], color=COMPARED, marker="o", markersize=4, label="best-of-n")
            for i, (place, point) in enumerate(zip(places, best, strict=True)):
                if i == 0 or (len(best) - 1 - i) % 2 == 0:  # labels of neighbours would overlap
                    text = {"xytext": (8, -4), "ha": "left"} if i == 0 else {"xytext": (-6, 5), "ha": "right"}
                    axes.annotate(f"n = {point['n']}", place, textcoords="offset points", color=COMPARED, **text)
            place = measured(axes, end, key, AFTER, "D")
            axes.plot(*place, "D", color=AFTER, markersize=8, markeredgecolor="white", zorder=5, label="PPO at the end")
            kl_scale(axes, highest)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.set(title=title, xlabel="KL from SFT (nats, √ scale)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def training_comparison(runs: Mapping[str, Sequence[dict[str, Any]]], warnings: Mapping[str, int]) -> NotebookFigure:
    """PPO's metrics over the iterations, one line for each run; `warnings` has iterations to mark, by legend text."""
    titles = {
        "score": "score of the reward model (−1 to 1)",
        "kl": "KL from SFT (nats per response)",
        "distinct_2": "distinct pairs of tokens (share)",
        "perplexity_ref": "perplexity under SFT",
    }
    with new_figure(2, 2, height=4.6, sharex=True) as (figure, panels):
        for axes, (key, title) in zip(panels.flat, titles.items(), strict=True):
            for colour, (name, lines) in zip(PALETTE[3:], runs.items(), strict=False):
                axes.plot(*columns(lines, "step", key), color=colour, label=name)
            for dashes, (name, iteration) in zip(((1, 1), (4, 2), (6, 2, 1, 2)), warnings.items(), strict=False):
                axes.axvline(iteration, color=MUTED, linewidth=1.2, linestyle=(0, dashes), label=name)
            axes.set_title(title)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            if key != "score":
                axes.set_ylim(bottom=0)
        for axes in panels[-1]:
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _plain_ticks(axis: Any, ticks: list[float]) -> None:
    """These ticks and no others, without powers of ten."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.axes.minorticks_off()
