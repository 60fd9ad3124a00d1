"""Figures of a set of responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plaudit import rng

_RESAMPLES = 2000


def distinct(responses: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of tokens as a share of all of them, over all responses. Source: Li et al. 2016."""
    grams = [tuple(r[i : i + n]) for r in responses for i in range(len(r) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier one."""
    return 1 - len(set(texts)) / len(texts)


def bootstrap_ci95(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,), resampling prompts."""
    draws = rng.generator(seed, "evaluation", 0, "bootstrap").integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
