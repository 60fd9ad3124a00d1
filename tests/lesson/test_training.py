import pytest

from plaudit.lesson.training import PANELS, side_by_side


def lines(factor):
    return [{"step": i + 1} | dict.fromkeys(PANELS, factor * i) for i in range(5)]


def test_every_run_is_a_line_in_every_panel_and_warnings_are_marked():
    axes = side_by_side({"short": lines(1.0), "long": lines(2.0)}, {"warning": 3}).axes
    assert [ax.get_title(loc="left") for ax in axes] == list(PANELS.values())
    for ax in axes:
        short, long, mark = ax.lines
        assert short.get_label() == "short"
        assert list(long.get_xdata()) == [1, 2, 3, 4, 5]
        assert long.get_ydata() == pytest.approx([2.0 * i for i in range(5)])
        assert mark.get_label() == "warning"
        assert set(mark.get_xdata()) == {3}
    assert len({line.get_color() for line in axes[0].lines}) == 3
