import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta

from plaudit.evaluation.best_of_n import kept, kl_bound, kl_measured

# Five responses, in tenths of probability; the second and third rank equal, so that best-of-n cannot tell them apart.
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
def test_kept_is_the_share_of_all_sets(n):
    ranking = np.array([[0.3, -1.0, 0.3, 0.7, 0.3], [5.0, 4.0, 3.0, 2.0, 1.0]])
    expected = np.zeros((2, 5))
    for row in range(2):
        sets = list(itertools.combinations(range(5), n))
        for some in sets:
            best = [i for i in some if ranking[row, i] == ranking[row, list(some)].max()]
            expected[row, best] += 1 / len(best) / len(sets)
    assert kept(ranking, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_value_of_best_of_n_is_estimated_without_bias(n):
    """Over all 5^4 ways to draw four responses, the estimate averages to what enumeration says of best-of-n."""
    drawn = np.array(list(itertools.product(range(5), repeat=4)))
    chance = (TENTHS[drawn] / 10).prod(axis=1)
    estimates = (kept(RANKS[drawn], n) * VALUES[drawn]).sum(1)
    assert chance @ estimates == pytest.approx(best_of_n_by_enumeration(n) @ VALUES, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_kl_with_ties_is_that_of_enumeration(n):
    """Draws in exactly the distribution's shares: 20 of them, so that each response is a group of equals."""
    policy, sft = best_of_n_by_enumeration(n), TENTHS / 10
    exact = (policy * np.log(policy / sft)).sum()
    draws = np.repeat(RANKS, 2 * TENTHS)[None]
    assert kl_measured(draws, n) == pytest.approx([exact], abs=1e-12)
    if n > 1:
        assert exact < kl_bound(n)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 32])
def test_kl_without_ties_is_that_of_the_largest_of_n_uniform_numbers(n):
    ranking = np.random.default_rng(0).normal(size=(3, 32))
    expected = -beta(n, 1).entropy()  # the largest of n uniform numbers against one of them
    assert kl_bound(n) == pytest.approx(expected, abs=1e-12)
    assert kl_measured(ranking, n) == pytest.approx([expected] * 3, abs=1e-12)


def test_where_all_responses_rank_equal_best_of_n_is_sft():
    assert kl_measured(np.zeros((1, 8)), 4) == pytest.approx([0.0], abs=1e-12)
    assert kept(np.zeros((1, 8)), 4) == pytest.approx(np.full((1, 8), 1 / 8))


def test_of_many_draws_the_worst_is_kept_with_a_share_that_no_float_holds_and_the_kl_is_finite():
    draws = np.arange(256.0)[None]
    assert kl_measured(draws, 256) == pytest.approx(kl_bound(256), abs=1e-9)
