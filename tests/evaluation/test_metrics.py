import json

import numpy as np
import pytest

from plaudit.data.text import distinct
from plaudit.evaluation.metrics import (
    bootstrap_ci95,
    distinct_without,
    duplicate_rate,
    jackknife_ci95,
    over_seeds_ci95,
    resamples,
    strict,
)


def test_duplicate_rate_counts_repeats_of_an_earlier_text():
    assert duplicate_rate(["a", "b", "a", "a"]) == 0.5
    assert duplicate_rate(["a", "b"]) == 0.0


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = bootstrap_ci95(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_ci95(values, seed=1) == (low, high)


def test_distinct_without_equals_distinct_of_the_other_responses():
    responses = [[1, 2, 1, 2], [1, 2], [3], [2, 1, 4], [1, 2]]
    expected = [distinct(responses[:i] + responses[i + 1 :], 2) for i in range(5)]
    assert distinct_without(responses, 2).tolist() == pytest.approx(expected)


def test_jackknife_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=50)
    without = (values.sum() - values) / 49
    half = 1.959964 * values.std(ddof=1) / np.sqrt(50)
    assert jackknife_ci95(values.mean(), without) == pytest.approx((values.mean() - half, values.mean() + half))


def test_resamples_are_the_ones_of_the_bootstrap():
    weights = resamples(40, seed=3)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert (weights * 40 == np.round(weights * 40)).all()
    values = np.random.default_rng(0).normal(size=40)
    assert np.quantile(weights @ values, [0.025, 0.975]) == pytest.approx(bootstrap_ci95(values, seed=3))


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shared", [True, False])
def test_an_interval_over_seeds_covers_the_truth(seeds, of_seeds, shared):
    """In at least 95% of 400 experiments, whether seeds or prompts differ more, and with few seeds too."""
    draw = np.random.default_rng(0)
    covered, n = 0, 40
    for _ in range(400):
        hard = draw.normal(0, 0.4, (1, n) if shared else (seeds, n))
        values = 0.3 + draw.normal(0, of_seeds, (seeds, 1)) + hard + draw.normal(0, 0.2, (seeds, n))
        prompts = () if shared else [[(seed, i) for i in range(n)] for seed in range(seeds)]
        low, high = over_seeds_ci95(list(values), prompts)
        covered += low <= 0.3 <= high
    assert covered >= 371  # two standard errors of a binomial below 380


def test_an_interval_over_one_seed_is_that_over_prompts():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / 20
    assert over_seeds_ci95([values]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)


def test_an_interval_over_seeds_weighs_each_seed_the_same():
    assert over_seeds_ci95([np.array([2.0])] * 3) == (2.0, 2.0)
    low, high = over_seeds_ci95([np.zeros(1000), np.ones(2)])
    assert (low + high) / 2 == 0.5
    assert (high - low) / 2 == pytest.approx(12.706 * 0.5, rel=1e-3)  # Student's with one degree of freedom
    values = np.random.default_rng(0).normal(size=30)
    same, other = over_seeds_ci95([values, values]), over_seeds_ci95([values, values], [range(30), range(30, 60)])
    assert same[1] - same[0] == pytest.approx(2**0.5 * (other[1] - other[0]), rel=0.03)  # 29 degrees and 59


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), np.float64("inf")])
def test_strict_content_has_null_where_json_has_no_number(bad):
    content = {"a": bad, "b": [1.5, bad, (bad, {"c": bad})], "d": "inf", "e": None, "f": 3, "g": True}
    expected = {"a": None, "b": [1.5, None, [None, {"c": None}]], "d": "inf", "e": None, "f": 3, "g": True}
    assert json.loads(json.dumps(strict(content), allow_nan=False)) == expected
