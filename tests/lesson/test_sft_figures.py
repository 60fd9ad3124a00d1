import numpy as np

from plaudit.lesson.sft_figures import next_tokens, token_lengths


def test_every_length_is_counted_and_the_limit_is_marked():
    (axes,) = token_lengths([5, 5, 9, 70], max_tokens=64).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == 64.5


def test_next_tokens_are_bars_in_percent_from_top_to_bottom():
    figure = next_tokens({"before": (["␣a", "␣the"], [0.5, 0.25]), "after": (["␣b", "␣c"], [0.9, 0.05])}, "film is")
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [50.0, 25.0]
    assert np.allclose([bar.get_width() for bar in right.patches], [90.0, 5.0])
    assert [label.get_text() for label in right.get_yticklabels()] == ["␣b", "␣c"]
    assert right.yaxis_inverted()
    assert len(next_tokens({"only": (["␣a"], [1.0])}, "x").axes) == 1
