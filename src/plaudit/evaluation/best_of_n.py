"""Best-of-n: draw n responses to a prompt and keep the one that ranks highest. The baseline for PPO at equal KL.

Shapes: N prompts, m draws from the SFT model for each, 1 <= n <= m. Every estimate averages over all subsets of n of
the m draws, so it uses every draw and does not depend on their order. Draws of equal rank are kept equally often.
Sources: arXiv 2401.01879 and 2404.04656 on the KL of best-of-n.
"""

from __future__ import annotations

import math

import numpy as np


def kl_bound(n: int) -> float:
    """log n - (n - 1)/n nats: an upper bound on the KL of best-of-n from SFT, exact if no two responses rank equal."""
    return math.log(n) - (n - 1) / n


def kept(ranking: np.ndarray, n: int) -> np.ndarray:
    """(N, m) the probability that best-of-n keeps each draw: the share of all subsets of n draws in which it is best.

    Draws are compared by their `ranking` (N, m); higher is better. The sum of `kept * values` over the draws is an
    unbiased estimate of the mean value under best-of-n.
    """
    m = ranking.shape[1]
    below, at_most = _rank_counts(ranking)
    subsets = np.array([math.comb(k, n) / math.comb(m, n) for k in range(m + 1)])
    return (subsets[at_most] - subsets[below]) / (at_most - below)


def kl_measured(ranking: np.ndarray, n: int) -> np.ndarray:
    """(N,) KL of best-of-n from SFT in nats per response, estimated for each prompt from the ties among its draws.

    Best-of-n changes the probability of a response through its rank only, so texts and tokens are not needed. Let F be
    the share of responses that rank no higher: best-of-n multiplies the density by n F^(n-1). If no two responses rank
    equal, F is uniform and the KL equals the bound. A group of equal rank from F = a to b is kept with probability
    P = b^n - a^n, and each of its members gains the same factor P / (b - a); the group adds P log(P / (b - a)) to the
    KL, less than n F^(n-1) would. Only a and b are estimated, from the shares of the draws. A group with a single draw
    counts as no tie, so the estimate is biased upwards, at most to the bound.
    """
    below, at_most = _rank_counts(ranking)
    a, b = below / ranking.shape[1], at_most / ranking.shape[1]
    share = b**n - a**n
    tied = share * np.log(np.maximum(share, 1e-300) / (b - a))  # the share of the worst draw can underflow: 0 log 0
    nats = np.where(at_most - below > 1, tied, _integral(b, n) - _integral(a, n))
    return (nats / (at_most - below)).sum(1)


def _integral(f: np.ndarray, n: int) -> np.ndarray:
    """The integral of n t^(n-1) log(n t^(n-1)) over t from 0 to f: the KL up to rank f without ties."""
    return f**n * (math.log(n) + (n - 1) * (np.log(np.maximum(f, 1e-300)) - 1 / n))


def _rank_counts(ranking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, m) for each draw: the number of draws that rank below it, and that rank no higher (itself included)."""
    one, other = ranking[:, :, None], ranking[:, None, :]
    return (other < one).sum(-1), (other <= one).sum(-1)
