import numpy as np
import pytest

from plaudit.lesson import reward_model_figures as figures


def test_bradley_terry_marks_probability_and_loss():
    left, right = figures.bradley_terry(0.2, 0.9).axes
    p = 1 / (1 + np.exp(0.7))
    assert left.lines[1].get_xydata().tolist() == [[pytest.approx(-0.7), pytest.approx(100 * p)]]
    assert right.lines[1].get_ydata()[0] == pytest.approx(-np.log(p))
    assert left.lines[0].get_ydata()[100] == 50


@pytest.mark.parametrize(
    ("logits", "labels", "cells"),
    [
        ([1.0, -1.0, -2.0, 3.0], [1, 1, 0, 0], ["1\n50%"] * 4),
        ([1.0, 1.0, 2.0, -3.0], [1, 1, 1, 0], ["1\n100%", "0\n0%", "0\n0%", "3\n100%"]),
        ([1.0, 1.0, 1.0, -1.0], [0, 1, 1, 1], ["0\n0%", "1\n100%", "1\n33%", "2\n67%"]),
    ],
)
def test_confusion_has_human_labels_in_rows(logits, labels, cells):
    (axes,) = figures.confusion(np.array(logits), np.array(labels)).axes
    assert [text.get_text() for text in axes.texts] == cells


def test_calibration_shows_every_bin_with_an_interval():
    bins = [{"confidence": 0.1, "positive": 0.2, "count": 50}, {"confidence": 0.9, "positive": 1.0, "count": 100}]
    above, below = figures.calibration(bins).axes
    assert above.containers[0].lines[0].get_xydata().tolist() == [[10.0, 20.0], [90.0, 100.0]]
    assert [bar.get_height() for bar in below.patches] == [50, 100]
    (ends,) = above.containers[0].lines[2]
    first, last = (segment[:, 1] for segment in ends.get_segments())
    assert first == pytest.approx([20 - 196 * 0.4 / 50**0.5, 20 + 196 * 0.4 / 50**0.5])
    assert last[1] - last[0] > 1  # 100 of 100 still has an interval


def test_logit_histogram_counts_every_text_once():
    (axes,) = figures.logit_histogram(np.linspace(-7, 7, 50), np.repeat([0, 1], [20, 30])).axes
    assert [sum(bar.get_height() for bar in bars) for bars in axes.containers] == [20, 30]


def test_agreement_is_drawn_in_percent_with_the_ceiling():
    (axes,) = figures.agreement({"two people": 0.8, "model": 0.75, "majority": 0.83}, 0.83, "agreement (%)").axes
    *dots, ceiling = axes.lines
    assert [tuple(dot.get_xydata()[0]) for dot in dots] == [pytest.approx(at) for at in ((80, 0), (75, 1), (83, 2))]
    assert ceiling.get_xdata()[0] == pytest.approx(83)
    assert [text.get_text() for text in axes.texts] == ["80.0", "75.0", "83.0", "ceiling"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["two people", "model", "majority"]
