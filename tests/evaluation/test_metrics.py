import json

import numpy as np
import pytest

from plaudit.data.text import distinct
from plaudit.evaluation.metrics import (
    bootstrap_ci95,
    distinct_without,
    duplicate_rate,
    hierarchical_ci95,
    jackknife_ci95,
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


def test_hierarchical_interval_has_the_variance_of_both_levels():
    """The mean over J seeds has variance (between seeds + mean variance within a seed / prompts) / J."""
    draw = np.random.default_rng(1)
    groups = [draw.normal(draw.normal(1.0, 0.3), 1.5, size=60) for _ in range(12)]
    means = np.array([g.mean() for g in groups])
    variance = (means.var() + np.mean([g.var() for g in groups]) / 60) / 12
    low, high = hierarchical_ci95(groups, seed=1)
    assert (low + high) / 2 == pytest.approx(means.mean(), abs=0.02)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(variance), rel=0.06)  # 2,000 resamples give the ends to 5%
    assert hierarchical_ci95(groups, seed=1) == (low, high)


def test_hierarchical_interval_weighs_each_seed_the_same():
    assert hierarchical_ci95([np.array([2.0])] * 3, seed=1) == (2.0, 2.0)
    low, high = hierarchical_ci95([np.zeros(1000), np.ones(2)], seed=1)  # whatever its number of prompts
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), np.float64("inf")])
def test_strict_content_has_null_where_json_has_no_number(bad):
    content = {"a": bad, "b": [1.5, bad, (bad, {"c": bad})], "d": "inf", "e": None, "f": 3, "g": True}
    expected = {"a": None, "b": [1.5, None, [None, {"c": None}]], "d": "inf", "e": None, "f": 3, "g": True}
    assert json.loads(json.dumps(strict(content), allow_nan=False)) == expected
