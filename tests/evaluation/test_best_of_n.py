import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta

from plaudit.evaluation.best_of_n import kept, kl_bound, kl_measured

# Five responses, with probabilities in tenths. The second and the third rank equal, so best-of-n treats them alike.
TENTHS = np.array([3, 2, 2, 2, 1])
RANKS = np.array([-1.0, 0.5, 0.5, 2.0, 3.0])
VALUES = np.array([0.1, -0.7, 0.3, 0.9, -0.2])


def best_of_n_by_enumeration(n: int) -> np.ndarray:
    """(5,) the probability of each response under best-of-n, over all tuples of n draws, ties broken evenly."""
    chances = np.zeros(5)
    for drawn in itertools.product(range(5), repeat=n):
        best = [i for i in drawn if RANKS[i] == max(RANKS[list(drawn)])]
        for i in best:
            chances[i] += math.prod(TENTHS[list(drawn)] / 10) / len(best)
    return chances


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_kept_is_the_share_of_all_subsets(n):
    ranking = np.array([[0.3, -1.0, 0.3, 0.7, 0.3], [5.0, 4.0, 3.0, 2.0, 1.0]])
    expected = np.zeros((2, 5))
    for row in range(2):
        subsets = list(itertools.combinations(range(5), n))
        for subset in subsets:
            best = [i for i in subset if ranking[row, i] == ranking[row, list(subset)].max()]
            expected[row, best] += 1 / len(best) / len(subsets)
    assert kept(ranking, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_value_of_best_of_n_is_estimated_without_bias(n):
    """The mean of the estimate over all 5^4 ways to draw four responses is the value that enumeration gives."""
    drawn = np.array(list(itertools.product(range(5), repeat=4)))
    chance = (TENTHS[drawn] / 10).prod(axis=1)
    estimates = (kept(RANKS[drawn], n) * VALUES[drawn]).sum(1)
    assert chance @ estimates == pytest.approx(best_of_n_by_enumeration(n) @ VALUES, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_kl_with_ties_equals_enumeration(n):
    """20 draws in exactly the shares of the distribution, so each response is a group of equal rank."""
    policy, sft = best_of_n_by_enumeration(n), TENTHS / 10
    exact = (policy * np.log(policy / sft)).sum()
    draws = np.repeat(RANKS, 2 * TENTHS)[None]
    assert kl_measured(draws, n) == pytest.approx([exact], abs=1e-12)
    if n > 1:
        assert exact < kl_bound(n)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 32])
def test_kl_without_ties_is_that_of_the_maximum_of_n_uniform_numbers(n):
    ranking = np.random.default_rng(0).normal(size=(3, 32))
    expected = -beta(n, 1).entropy()  # KL of the maximum of n uniform numbers from one uniform number
    assert kl_bound(n) == pytest.approx(expected, abs=1e-12)
    assert kl_measured(ranking, n) == pytest.approx([expected] * 3, abs=1e-12)


def test_best_of_n_is_sft_if_all_responses_rank_equal():
    assert kl_measured(np.zeros((1, 8)), 4) == pytest.approx([0.0], abs=1e-12)
    assert kept(np.zeros((1, 8)), 4) == pytest.approx(np.full((1, 8), 1 / 8))


def test_kl_is_finite_when_the_share_of_the_worst_draw_underflows():
    draws = np.arange(256.0)[None]
    assert kl_measured(draws, 256) == pytest.approx(kl_bound(256), abs=1e-9)
