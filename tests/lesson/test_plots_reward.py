import numpy as np
import pytest

from plaudit.lesson import plots_reward


def test_bradley_terry_marks_probability_and_loss():
    left, right = plots_reward.bradley_terry(0.2, 0.9).axes
    p = 1 / (1 + np.exp(0.7))
    assert left.lines[1].get_xydata().tolist() == [[pytest.approx(-0.7), pytest.approx(100 * p)]]
    assert right.lines[1].get_ydata()[0] == pytest.approx(-np.log(p))
    assert left.lines[0].get_ydata()[100] == 50


def test_confusion_has_people_in_rows_and_the_model_in_columns():
    axes = plots_reward.confusion(np.array([1.0, -1.0, -2.0, 3.0]), np.array([1, 1, 0, 0])).axes[0]
    assert [t.get_text() for t in axes.texts] == ["1\n50%"] * 4
    axes = plots_reward.confusion(np.array([1.0, 1.0, 2.0, -3.0]), np.array([1, 1, 1, 0])).axes[0]
    assert [t.get_text() for t in axes.texts] == ["1\n100%", "0\n0%", "0\n0%", "3\n100%"]


def test_calibration_shows_every_bin_with_an_interval():
    bins = [{"confidence": 0.1, "positive": 0.2, "count": 50}, {"confidence": 0.9, "positive": 1.0, "count": 100}]
    above, below = plots_reward.calibration(bins).axes
    assert above.containers[0].lines[0].get_xydata().tolist() == [[10.0, 20.0], [90.0, 100.0]]
    assert [bar.get_height() for bar in below.patches] == [50, 100]
    (ends,) = above.containers[0].lines[2]
    first, last = (segment[:, 1] for segment in ends.get_segments())
    assert first == pytest.approx([20 - 196 * 0.4 / 50**0.5, 20 + 196 * 0.4 / 50**0.5])
    assert last[1] - last[0] > 1  # all of a hundred are not certainty


def test_every_score_is_in_one_of_the_two_heaps():
    logits, labels = np.linspace(-7, 7, 50), np.repeat([0, 1], 25)
    axes = plots_reward.score_spread(logits, labels).axes[0]
    negative, positive = axes.containers
    assert sum(bar.get_height() for bar in negative) == sum(bar.get_height() for bar in positive) == 25


def test_agreement_is_drawn_beside_the_ceiling():
    rows = [("two people", 0.8, None), ("model", 0.75, (0.7, 0.79)), ("most others", 0.83, None)]
    axes = plots_reward.beside_people(rows, 0.83, "agreement (%)").axes[0]
    *dots, ceiling = axes.lines
    assert [tuple(dot.get_xydata()[0]) for dot in dots] == [pytest.approx(at) for at in ((80, 0), (75, 1), (83, 2))]
    assert ceiling.get_xdata()[0] == pytest.approx(83)
    assert [t.get_text() for t in axes.texts] == ["80.0", "75.0", "83.0", "ceiling"]
    assert axes.yaxis_inverted()
