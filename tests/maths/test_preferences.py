import numpy as np
import pytest
from scipy.special import logit

from plaudit.maths.preferences import (
    differences,
    exceeds,
    pairs_of_texts,
    preference_statistics,
    rightness,
    too_few,
)


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


def test_every_pair_of_a_ranking_is_found_in_its_order():
    pairs, judgement = pairs_of_texts([3, 2])
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    assert judgement.tolist() == [0, 0, 0, 1]
    gaps, _ = differences(np.array([5.0, 3, 4, 0, 1]), [3, 2])
    assert gaps.tolist() == [2, 1, -1, -1]
    values, of = differences(np.array([5.0, -3]), [1, 1])
    assert (values.tolist(), of.tolist()) == ([5, -3], [0, 1])


def test_a_ranking_counts_once_however_many_pairs_it_has():
    logits, judgement = np.array([1.0, 1, -1, -1, 0, 2]), np.array([0, 0, 0, 1, 2, 3])
    labels = np.array([1.0, 1, 1, 1, 0, 0.5])
    assert rightness(logits, labels, judgement).tolist() == [2 / 3, 0, 0.5]
    figures = preference_statistics(logits, labels, np.ones(6), pairs=True, judgement=judgement)
    assert figures["held_out"] == 3
    assert figures["accuracy"] == pytest.approx((2 / 3 + 0 + 0.5) / 3)
    assert sum(b["count"] for b in figures["accuracy_by_margin"]) == 5


@pytest.mark.parametrize(
    ("more", "fewer", "beyond_noise"), [(6, 0, True), (5, 0, False), (15, 5, True), (14, 6, False)]
)
def test_more_is_beyond_noise_where_the_sign_test_says_so(more, fewer, beyond_noise):
    one, other = np.r_[np.ones(more), np.zeros(fewer), np.ones(50)], np.r_[np.zeros(more), np.ones(fewer + 50)]
    assert exceeds(one, other) == beyond_noise
    assert not exceeds(other, one)
    assert not exceeds(one, one)


def test_graded_labels_have_an_error_and_a_rank_correlation():
    probabilities, labels = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.0, 0.25, 0.75, 1.0])
    figures = preference_statistics(logit(probabilities), labels, np.ones(4), pairs=False)
    assert figures["mean_absolute_error"] == pytest.approx((0.1 + 0.15 + 0.15 + 0.1) / 4)
    assert figures["spearman"] == pytest.approx(1)
    falling = preference_statistics(-logit(probabilities), labels, np.ones(4), pairs=False)
    assert falling["spearman"] == pytest.approx(-1)
    assert preference_statistics(np.ones(4), labels, np.ones(4), pairs=False)["spearman"] == 0
    crisp = preference_statistics(logit(probabilities), np.array([0.0, 0, 1, 1]), np.ones(4), pairs=False)
    assert "spearman" not in crisp


def test_the_rank_correlation_of_shares_does_not_depend_on_which_text_is_first():
    logits, shares = np.array([0.5, 1.0, -2.0, 0.1]), np.array([0.6, 0.8, 0.1, 0.55])
    turned = np.array([1, -1, 1, -1])
    one, other = (
        preference_statistics(logits * s, 0.5 + (shares - 0.5) * s, np.ones(4), pairs=True)["spearman"]
        for s in (1, turned)
    )
    assert one == pytest.approx(other)
    assert one == pytest.approx(1)


def test_too_few_judgements_say_how_many_are_missing():
    right = np.array([1.0] * 12 + [0.0] * 8)  # 60% of 20: Wilson's interval begins at 39%
    line = too_few(right, trained=80)
    assert line.startswith("right about 12 of 20 held-out judgements, which may be chance")
    more = int(line.split(" more judgements")[0].split()[-1])
    needed = (more + 100) / 5  # held out: a fifth of all
    low = [0.6 - 1.96 * (0.6 * 0.4 / n) ** 0.5 for n in (needed, 0.9 * needed)]
    assert low[0] >= 0.5 > low[1]
    assert too_few(np.array([1.0] * 18 + [0.0] * 2), trained=80) == ""
    assert "compare at least 400 in all" in too_few(np.array([1.0] * 10 + [0.0] * 10), trained=80)
