import numpy as np
import pytest
from scipy.special import logit

from plaudit.maths.preferences import preference_statistics, wilson


def test_wilson_interval_matches_published_values():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_calibration_by_hand():
    logits = logit([0.75] * 4 + [0.05] * 4)
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1.0])  # 3 of 4 and 1 of 4 are positive
    figures = preference_statistics(logits, labels, np.arange(8), pairs=False)
    assert figures["ece"] == pytest.approx(0.5 * abs(0.75 - 0.75) + 0.5 * abs(0.05 - 0.25))
    assert figures["accuracy"] == 6 / 8
    low, high = figures["calibration"]
    assert low == {"confidence": pytest.approx(0.05), "positive": 0.25, "count": 4}
    assert high == {"confidence": pytest.approx(0.75), "positive": 0.75, "count": 4}


def test_ties_do_not_count_as_right_or_wrong():
    logits, labels = np.array([2.0, -2.0, 3.0]), np.array([1.0, 0.0, 0.5])
    figures = preference_statistics(logits, labels, np.array([3, 4, 5]), pairs=False)
    assert figures["held_out"] == 2
    assert figures["accuracy"] == 1.0
    assert sum(b["count"] for b in figures["calibration"]) == 3


def test_calibration_of_comparisons_does_not_depend_on_which_text_is_first():
    # The model gives 20 pairs a probability of 0.75 and is right about 15: it is perfectly calibrated, although the
    # data always lists the preferred text first.
    logits = logit([0.75] * 15 + [0.25] * 5)
    figures = preference_statistics(logits, np.ones(20), np.arange(20), pairs=True)
    assert figures["ece"] == pytest.approx(0, abs=1e-9)
    assert figures["accuracy"] == 0.75


def test_accuracy_by_margin_is_of_the_quarters():
    logits = np.array([0.1, -0.2, 0.6, -0.7, 1.1, -1.2, 2.1, -2.2])
    labels = np.array([0, 1, 1, 1, 1, 0, 1, 0.0])  # wrong, wrong; right, wrong; then all right
    bins = preference_statistics(logits, labels, np.ones(8), pairs=False)["accuracy_by_margin"]
    assert [(b["accuracy"], b["count"]) for b in bins] == [(0, 2), (0.5, 2), (1, 2), (1, 2)]
    assert (bins[0]["margin"][0], bins[-1]["margin"][1]) == (0.1, 2.2)


def test_nothing_but_ties_has_no_accuracy():
    statistics = preference_statistics(np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([1, 2]), pairs=True)
    assert statistics == {"held_out": 0}


def test_a_saturated_logit_and_equal_lengths_give_finite_figures():
    figures = preference_statistics(np.array([800.0, -800.0]), np.array([1.0, 0.0]), np.array([4, 4]), pairs=False)
    assert figures["ece"] == 0
    assert figures["length_correlation"] == 0
