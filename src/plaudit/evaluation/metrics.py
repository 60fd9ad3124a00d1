"""Statistics of a set of responses, and their 95% confidence intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap, t

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


def over_seeds_ci95(groups: Sequence[np.ndarray], prompts: Sequence[Sequence[Any]] = ()) -> tuple[float, float]:
    """95% interval of the mean of the groups' means, for other seeds and other prompts.

    Args:
        groups: (N,) the values of a seed, one a prompt; N may differ. Each seed counts the same.
        prompts: the N prompts of each seed, by which seeds share them; by default all seeds have the same ones.

    The variance is clustered by seeds and by prompts; what is random in a single answer is in both parts, so that the
    interval is rather too wide. Source: Cameron, Gelbach and Miller 2011.
    """
    seeds = len(groups)
    shares: dict[Any, float] = {}  # of the overall mean's deviation, by prompt
    for number, values in enumerate(groups):
        names = prompts[number] if prompts else range(len(values))
        for name, deviation in zip(names, (values - values.mean()) / (len(values) * seeds), strict=True):
            shares[name] = shares.get(name, 0.0) + float(deviation)
    of_prompts = sum(share**2 for share in shares.values())
    return seeds_and_prompts_ci95(np.array([values.mean() for values in groups]), of_prompts, len(shares))


def seeds_and_prompts_ci95(means: np.ndarray, of_prompts: float, n: int) -> tuple[float, float]:
    """95% interval of the mean of `means` (S,), one for each seed.

    Args:
        of_prompts: variance of that mean over the choice of the `n` prompts.

    Half of its width is the root of the squared half-widths over seeds alone and over prompts alone (Zou and Donner
    2008). The one over seeds is Student's: with three seeds 4.3 standard errors. With one seed it is over prompts only.
    """
    halves = [float(t.ppf(0.975, max(n - 1, 1))) * math.sqrt(of_prompts)]
    if (seeds := len(means)) > 1:
        halves.append(float(t.ppf(0.975, seeds - 1) * means.std(ddof=1)) / math.sqrt(seeds))
    centre, half = float(means.mean()), math.hypot(*halves)
    return centre - half, centre + half
