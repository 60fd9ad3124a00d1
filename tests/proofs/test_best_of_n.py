"""Best-of-n from the reference: its exact distribution, and the bound on its KL that is often quoted as its KL."""

import itertools
import math

import numpy as np
import pytest
from proofs.enumerable import RESPONSES, divergence, probabilities, scores_of, tables
from proofs.table_lm import SCALE, policy_of, reward_of, sampled

_, REFERENCE, LOGITS = tables()
Q, SCORES = probabilities(REFERENCE), scores_of(LOGITS)


def best_of_n(q, scores, n):
    """(40,) probability that each response is the best of n; among equal scores the first drawn wins.

    All n draws score at most s with probability F(s)^n; the share of the responses that score exactly s is then
    divided as q divides it, because among equal scores the first drawn wins.
    """
    at_most = np.array([q[scores <= s].sum() for s in scores])
    exactly = np.array([q[scores == s].sum() for s in scores])
    return (at_most**n - (at_most - exactly) ** n) * q / exactly


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_formula_equals_the_enumeration_of_all_draws(n):
    counted = np.zeros(len(RESPONSES))
    for draws in itertools.product(range(len(RESPONSES)), repeat=n):
        counted[max(draws, key=lambda i: SCORES[i])] += math.prod(Q[i] for i in draws)  # max keeps the first
    assert best_of_n(Q, SCORES, n) == pytest.approx(counted, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64, 1000])
def test_its_kl_is_at_most_log_n_minus_n_minus_1_over_n(n):
    p = best_of_n(Q, SCORES, n)
    positive = p > 0
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert divergence(p[positive], Q[positive]) <= math.log(n) - (n - 1) / n + 1e-12
    assert p @ SCORES >= Q @ SCORES - 1e-12


def test_the_bound_is_the_kl_when_no_two_responses_tie_and_none_is_likely():
    """With 5,000 equally likely responses of different scores the formula is the KL."""
    p = best_of_n(np.full(5000, 1 / 5000), np.arange(5000.0), 4)
    assert np.sum(p * np.log(p * 5000)) == pytest.approx(math.log(4) - 3 / 4, abs=1e-3)


@pytest.mark.parametrize("n", [2, 4])
def test_the_best_of_n_sampled_by_the_library_has_that_distribution(n):
    groups = 4000
    responses, raw = sampled(policy_of(REFERENCE), reward_of(LOGITS), groups * n, "best of", n)
    scores = SCALE.scores(raw, responses.ended).view(groups, n).numpy()
    winners = scores.argmax(1) + n * np.arange(groups)
    tokens = responses.tokens()
    won = [RESPONSES.index(tuple(tokens[i])) for i in winners]
    counts, p = np.bincount(won, minlength=len(RESPONSES)), best_of_n(Q, SCORES, n)
    likely = groups * p > 5
    z = (counts - groups * p)[likely] / np.sqrt(groups * p * (1 - p))[likely]
    assert abs(z).max() < 4
    assert (z**2).mean() < 2  # 1 expected
