"""PPO's objective drawn: the leash and its optimum, the clip, and what one update does to the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator
from torch import Tensor

from plaudit.batches import Experience
from plaudit.lesson.style import AFTER, BLUE, COST, GREEN, GREY, MUTED, ORANGE, PURPLE, YELLOW, Picture, picture, style
from plaudit.maths.losses import policy_loss


def optimum_by_kl_coef(names: Sequence[str], optima: Mapping[float, Sequence[float]]) -> Picture:
    """The probabilities of the optimal policy over a range of kl_coef, one line a response.

    Args:
        optima: probabilities in the order of `names`, by kl_coef.
    """
    coefs = sorted(optima, reverse=True)  # the leash loosens from left to right
    colours = (GREY, YELLOW, GREEN, BLUE, ORANGE, PURPLE)
    with style():
        figure, axes = picture(height=3.2)
        for i, name in enumerate(names):
            values = [optima[c][i] for c in coefs]
            axes.plot(coefs, values, color=colours[i % len(colours)], label=name)
        axes.set_xscale("log")
        axes.set_xlim(coefs[0], coefs[-1])
        axes.xaxis.set_major_locator(FixedLocator([10, 3, 1, 0.3, 0.1, 0.03]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.minorticks_off()
        axes.set_ylim(-0.02, 1.02)
        axes.set_title("probability under the optimal policy")
        axes.set_xlabel("kl_coef (score a nat), from a short leash to a long one")
        figure.legend(loc="outside right center")
    return figure


def clipped(ratios: np.ndarray, advantage: float, clip_range: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) what one token adds to PPO's objective at each ratio, and the gradient with respect to log p.

    Both come from the library's own loss.
    """
    values, slopes = [], []
    for ratio in ratios:
        logprob = torch.tensor([[float(ratio)]], dtype=torch.float64).log().requires_grad_()
        zero, advantages = torch.zeros_like(logprob), torch.full_like(logprob, advantage)
        loss, _ = policy_loss(logprob, zero, advantages, torch.ones_like(logprob, dtype=torch.bool), clip_range)
        (slope,) = torch.autograd.grad(-loss, logprob)
        values.append(-loss.item())
        slopes.append(slope.item())
    return np.array(values), np.array(slopes)


def clipped_objective(clip_range: float) -> Picture:
    """One token's part of the objective against its ratio, for a good and for a bad one; shaded: no gradient."""
    ratios = np.linspace(0.4, 1.6, 241)
    with style():
        figure, panels = picture(1, 2, height=3.0, sharex=True)
        for axes, advantage in zip(panels, (1.0, -1.0), strict=True):
            values, slopes = clipped(ratios, advantage, clip_range)
            flat = slopes == 0
            axes.plot(ratios, advantage * ratios, color=GREY, linewidth=1.2, linestyle=(0, (3, 2)), label="unclipped")
            axes.plot(ratios, values, color=AFTER, linewidth=2.5, label="clipped: what PPO maximises")
            axes.fill_between(
                ratios, 0, 1, where=flat, transform=axes.get_xaxis_transform(), color=COST, alpha=0.15, linewidth=0
            )
            axes.text(
                ratios[flat].mean(), 0.06, "no gradient", transform=axes.get_xaxis_transform(), ha="center", color=COST
            )
            axes.axvline(1, color=MUTED, linewidth=0.8)
            sign, wish = (">", "say it more often") if advantage > 0 else ("<", "say it less often")
            axes.set_title(f"advantage {sign} 0: {wish}")
            axes.set_xlabel("ratio: p now / p in the rollout")
            axes.xaxis.set_major_locator(MultipleLocator(0.2))
            axes.yaxis.set_major_locator(MultipleLocator(0.4))
        panels[0].set_ylabel("objective / |advantage|")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def update_scatter(experience: Experience, logprobs: Float[Tensor, "B R"], clip_range: float) -> Picture:
    """Every response token's advantage against what an update made of its probability.

    Args:
        logprobs: of the same tokens under the policy after the update.
    """
    mask = experience.rollout.response_mask
    x = experience.advantages[mask].cpu().numpy()
    y = (logprobs - experience.rollout.logprobs)[mask].exp().cpu().numpy()
    edges = np.quantile(x, np.linspace(0, 1, 11))
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, 9)
    with style():
        figure, axes = picture(height=3.2)
        axes.axhspan(1 - clip_range, 1 + clip_range, color=GREY, alpha=0.12, linewidth=0, label="within clip_range")
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.scatter(x, y, s=7, color=AFTER, alpha=0.25, linewidths=0, label="one token")
        means = [(x[bins == b].mean(), y[bins == b].mean()) for b in range(10)]
        axes.plot(*zip(*means, strict=True), color=COST, marker="o", markersize=4, label="mean of a tenth of them")
        reach = max(np.quantile(np.abs(np.log(y)), 0.999), 2 * clip_range)
        axes.set_yscale("log")
        axes.set_ylim(np.exp(-reach), np.exp(reach))
        axes.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.8, 1, 1.25, 2, 4]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.minorticks_off()
        axes.set_xlabel("advantage of the token (whitened: in standard deviations)")
        axes.set_title("ratio after the update: p now / p in the rollout")
        axes.legend(loc="upper left")
    return figure
