import io

import matplotlib
from matplotlib import image, pyplot

from plaudit.lesson.style import new_figure


def drawn():
    with new_figure(height=2.0) as (figure, axes):
        axes.plot([0, 1])
    return figure


def test_a_figure_fills_the_page_and_is_saved_with_more_pixels_than_it_shows():
    data, shown = drawn()._repr_png_()
    pixels = image.imread(io.BytesIO(data))
    assert shown == {"width": 672, "height": 192}  # 7 by 2 inches at 96 dots an inch
    assert pixels.shape[:2] == (288, 1008)
    assert pixels.std() > 0


def test_the_users_matplotlib_settings_change_nothing():
    plain, _ = drawn()._repr_png_()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 7}):
        assert drawn()._repr_png_()[0] == plain


def test_pyplot_does_not_know_the_figure():
    before = pyplot.get_fignums()
    drawn()
    assert pyplot.get_fignums() == before
