import numpy as np
import pytest

from plaudit.evaluation.metrics import bootstrap_ci95, distinct, duplicate_rate


def test_distinct_counts_different_grams_over_all_responses():
    assert distinct([[1, 2, 1, 2], [1, 2]], 1) == 2 / 6
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4  # (1,2) (2,1) (1,2) and (1,2)
    assert distinct([[1]], 2) == 0.0


def test_duplicates_are_repeats_of_an_earlier_text():
    assert duplicate_rate(["a", "b", "a", "a"]) == 0.5
    assert duplicate_rate(["a", "b"]) == 0.0


def test_bootstrap_interval_is_near_the_textbook_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    low, high = bootstrap_ci95(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_ci95(values, seed=1) == (low, high)
