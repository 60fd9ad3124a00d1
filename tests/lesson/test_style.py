import io
import itertools

import matplotlib
import numpy as np
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from plaudit.lesson import style as look
from plaudit.lesson.style import picture, style


def test_a_picture_is_as_wide_as_the_page_and_sharper_than_it_is_shown():
    with style():
        figure, axes = picture(height=2.0)
        axes.plot([0, 1])
    data, shown = figure._repr_png_()
    pixels = image.imread(io.BytesIO(data))
    assert pixels.shape[:2] == (288, 1008)
    assert shown == {"width": 672, "height": 192}
    assert pixels.std() > 0


def test_the_user_s_own_settings_do_not_show():
    def drawn():
        with style():
            figure, axes = picture()
            axes.plot([0, 1])
        return figure.png()

    plain = drawn()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 7}):
        assert drawn() == plain


def test_a_picture_is_on_no_list_of_open_figures():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure, _ = picture()
    assert pyplot.get_fignums() == before
    assert isinstance(figure, Figure)


def test_colours_that_stand_side_by_side_differ_in_lightness_or_in_blue_against_yellow():
    """What is left to those who do not see red and green apart: CIE lightness, and b* of the same."""

    def told(colour):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
        root = np.cbrt([y, z])
        return np.array([116 * root[0] - 16, 200 * (root[0] - root[1])])

    for one, other in itertools.combinations((look.BEFORE, look.AFTER, look.COST), 2):
        assert np.linalg.norm(told(one) - told(other)) > 15, (one, other)
