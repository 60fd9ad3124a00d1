"""Figures of a set of responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from plaudit import rng

_RESAMPLES = 2000


def distinct_without(responses: Sequence[Sequence[int]], n: int) -> np.ndarray:
    """(N,) `distinct` of all responses but one, for each one: what `jackknife_ci95` needs."""
    own = [Counter(tuple(r[i : i + n]) for i in range(len(r) - n + 1)) for r in responses]
    everyone = Counter(gram for grams in own for gram in grams.elements())
    lost = [sum(everyone[gram] == k for gram, k in grams.items()) for grams in own]
    left = [max(everyone.total() - grams.total(), 1) for grams in own]
    return (len(everyone) - np.array(lost)) / np.array(left)


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier one."""
    return 1 - len(set(texts)) / len(texts)


def bootstrap_ci95(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,), resampling prompts."""
    draws = rng.generator(seed, "evaluation", 0, "bootstrap").integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def jackknife_ci95(value: float, without: np.ndarray) -> tuple[float, float]:
    """95% normal interval of a figure of N responses, from what it is `without` (N,) each. Source: Efron, Stein 1981.

    For figures that count repetitions: drawing responses with replacement would add some.
    """
    half = 1.959964 * np.sqrt((len(without) - 1) * without.var())
    return float(value - half), float(value + half)


def resamples(n: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of n prompts in each resample of them; the rows sum to 1."""
    draws = rng.generator(seed, "evaluation", 0, "bootstrap").integers(n, size=(_RESAMPLES, n))
    return np.stack([np.bincount(row, minlength=n) for row in draws]) / n


def hierarchical_ci95(groups: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of the groups' means, resampling groups, then values within each.

    Args:
        groups: the values of each seed (N,), one a prompt; a seed counts the same however many it has.
    """
    draw = rng.generator(seed, "evaluation", 0, "hierarchical bootstrap")
    means = np.empty((_RESAMPLES, len(groups)))
    for row in means:
        for place, group in enumerate(draw.integers(len(groups), size=len(groups))):
            values = groups[group]
            row[place] = values[draw.integers(len(values), size=len(values))].mean()
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
