"""Best-of-n: draw n responses to a prompt, keep the one that ranks highest. What PPO has to beat at equal KL.

N prompts, m draws of each from SFT, 1 <= n <= m. Everything is averaged over all sets of n among the m draws, so that
no draw is wasted and no luck of the order remains; among equals each is kept equally often. Sources: arXiv 2401.01879
and 2404.04656 on the KL of best-of-n.
"""

from __future__ import annotations

import math

import numpy as np


def kl_bound(n: int) -> float:
    """log n - (n - 1)/n nats: best-of-n's KL from what it draws from is this, or less where responses rank equal."""
    return math.log(n) - (n - 1) / n


def kept(ranking: np.ndarray, n: int) -> np.ndarray:
    """(N, m) the share of all sets of n draws in which each draw is the one that is kept.

    The sum of `kept * values` over the draws is an unbiased estimate of what best-of-n is worth.

    Args:
        ranking: (N, m) what the draws are ranked by; more is better.
    """
    m = ranking.shape[1]
    below, at_most = _counts(ranking)
    sets = np.array([math.comb(k, n) / math.comb(m, n) for k in range(m + 1)])
    return (sets[at_most] - sets[below]) / (at_most - below)


def kl_measured(ranking: np.ndarray, n: int) -> np.ndarray:
    """(N,) KL of best-of-n from SFT in nats a response, estimated for each prompt from the ties among its draws.

    Best-of-n changes the odds of a response by its rank alone, so that texts and tokens do not matter here. With F
    the share of responses that rank no higher, it multiplies the density by n F^(n-1); where no two rank equal, F is
    uniform and the KL is the bound, exactly. A group of equals from F = a to b is kept with P = b^n - a^n and gains the
    same factor P / (b - a) for each: it adds P log(P / (b - a)), less than n F^(n-1) would. Only a and b are estimated,
    by their shares of the draws; a group of which a single draw was seen counts as none, so that the estimate errs
    upwards, at most to the bound.
    """
    below, at_most = _counts(ranking)
    a, b = below / ranking.shape[1], at_most / ranking.shape[1]
    share = b**n - a**n
    tied = share * np.log(np.maximum(share, 1e-300) / (b - a))  # the worst of many draws is kept never: 0 log 0
    nats = np.where(at_most - below > 1, tied, _untied(b, n) - _untied(a, n))
    return (nats / (at_most - below)).sum(1)


def _untied(f: np.ndarray, n: int) -> np.ndarray:
    """The integral of n t^(n-1) log(n t^(n-1)) over t from 0 to f."""
    return f**n * (math.log(n) + (n - 1) * (np.log(np.maximum(f, 1e-300)) - 1 / n))


def _counts(ranking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, m) of each draw: how many rank below it, and how many no higher, itself included."""
    one, other = ranking[:, :, None], ranking[:, None, :]
    return (other < one).sum(-1), (other <= one).sum(-1)
