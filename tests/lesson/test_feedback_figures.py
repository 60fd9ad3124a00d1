import numpy as np
import pytest

from plaudit.feedback.biases import Effect
from plaudit.lesson import feedback_figures as figures


def test_effects_show_estimate_interval_and_true_strength_of_each_group():
    groups = {
        "one": [Effect("position", "", 0.5, 0.2, 0.8, 100), Effect("positivity", "", 9.0, 8.0, 10.0, 100)],
        "two": [Effect("position", "", -0.1, -0.3, 0.1, 100)],
    }
    (axes,) = figures.effects(groups, {"one": {"position": 0.6}, "two": {"position": 0.0}}).axes
    assert axes.get_title(loc="left") == "position"
    _, *lines = (line.get_xydata().tolist() for line in axes.lines)
    assert lines == [
        [[0.2, 0.0], [0.8, 0.0]], [[0.5, 0.0]], [[0.6, 0.0]], [[-0.3, 1.0], [0.1, 1.0]], [[-0.1, 1.0]], [[0.0, 1.0]],
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]


def test_ceiling_shows_both_probabilities_and_counts_every_pair():
    above, below = figures.ceiling(np.array([[3, 1], [0, 4], [2, 2]])).axes
    best, two = (dict(line.get_xydata().round(6).tolist()) for line in above.lines)
    assert (best[75.0], two[75.0]) == (75.0, pytest.approx(100 * (0.75**2 + 0.25**2)))
    assert sum(bar.get_height() for bar in below.patches) == 3


def test_best_of_n_draws_every_reward_in_every_panel():
    panels = {"positive": {"mine": {1: 50.0, 4: 60.0}, "yours": {1: 50.0, 4: 40.0}}, "length": {"mine": {1: 9.0}}}
    first, second = figures.best_of_n(panels).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 50], [4, 60]], [[1, 50], [4, 40]]]
    assert [line.get_label() for line in first.lines] == ["mine", "yours"]
    assert second.lines[0].get_ydata().tolist() == [9.0]
