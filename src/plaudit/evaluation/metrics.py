"""Statistics of a set of responses, and their 95% confidence intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from plaudit import rng

_RESAMPLES = 2000


def strict(content: Any) -> Any:
    """The same content with None, which JSON has, for NaN and infinity, which it does not have."""
    if isinstance(content, dict):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def distinct_without(responses: Sequence[Sequence[int]], n: int) -> np.ndarray:
    """(N,) distinct-n of the other N - 1 responses, for each response: the input of `jackknife_ci95`."""
    own = [Counter(tuple(r[i : i + n]) for i in range(len(r) - n + 1)) for r in responses]
    total = Counter(gram for grams in own for gram in grams.elements())
    only_here = [sum(total[gram] == k for gram, k in grams.items()) for grams in own]
    others = [max(total.total() - grams.total(), 1) for grams in own]
    return (len(total) - np.array(only_here)) / np.array(others)


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier text."""
    return 1 - len(set(texts)) / len(texts)


def bootstrap_ci95(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,), one per prompt (two or more), resampling prompts."""
    draw = rng.generator(seed, "evaluation", 0, "bootstrap")
    found = bootstrap((values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=draw)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def jackknife_ci95(value: float, without: np.ndarray) -> tuple[float, float]:
    """95% normal interval of a statistic of N responses, from its values (N,) without each of them.

    Use it for statistics that count repetitions: a bootstrap draws responses twice, which adds repetitions.
    Source: Efron and Stein 1981.
    """
    half = 1.959964 * np.sqrt((len(without) - 1) * without.var())
    return float(value - half), float(value + half)


def resamples(n: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of n prompts in the resamples that `bootstrap_ci95` draws; each row sums to 1."""
    draws = rng.generator(seed, "evaluation", 0, "bootstrap").integers(n, size=(_RESAMPLES, n))
    return np.stack([np.bincount(row, minlength=n) for row in draws]) / n


def crossed_ci95(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of values (S, N) of S seeds on the same N prompts, resampling both.

    A resample has the same prompts for every seed, because what is hard about a prompt is so for all of them.
    """
    seeds = len(values)
    draws = rng.generator(seed, "evaluation", 0, "seeds").integers(seeds, size=(_RESAMPLES, seeds))
    each = resamples(values.shape[1], seed) @ values.T
    means = np.take_along_axis(each, draws, axis=1).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def hierarchical_ci95(groups: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of the groups' means, resampling groups and then the values (N,) in each.

    A group is a seed, and its values are those of N prompts. Each seed counts the same, whatever its N.
    """
    # Not scipy.stats.bootstrap: it resamples on one level only.
    draw = rng.generator(seed, "evaluation", 0, "hierarchical bootstrap")
    means = np.empty((_RESAMPLES, len(groups)))
    for row in means:
        for place, group in enumerate(draw.integers(len(groups), size=len(groups))):
            values = groups[group]
            row[place] = values[draw.integers(len(values), size=len(values))].mean()
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
