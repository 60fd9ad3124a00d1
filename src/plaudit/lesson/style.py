"""How a figure in a notebook looks: one width, one set of letters, colours that colour-blind people tell apart."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours, under the names of what they stand for in all three notebooks. The report uses the same.
INK, MUTED, GRID = "#1c1d21", "#5d616b", "#dedcd5"
BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
GREY = "#85888f"
BEFORE, AFTER, COST = GREY, BLUE, ORANGE  # SFT; what training made of it; what it is compared with, or pays

WIDTH = 7.0  # inches: the text column of a notebook
_SHARPNESS, _SHOWN = 144, 96  # dots an inch; of the page: letters in a picture are as large as those around it

RC = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "figure.facecolor": "white",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


class Picture(Figure):
    """A matplotlib figure that shows itself, sharply and once, as the last value of a cell or by display().

    It belongs to no backend and to no list of open figures, so that none is left over and none is drawn twice.
    """

    def png(self) -> bytes:
        """The picture as a PNG file."""
        buffer = io.BytesIO()
        with style():
            self.savefig(buffer, format="png", dpi=_SHARPNESS)
        return buffer.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(inches * _SHOWN) for inches in self.get_size_inches())
        return self.png(), {"width": width, "height": height}


def style() -> Any:
    """A context with our drawing style, whatever the user's matplotlibrc says. Axes keep what they were made with."""
    ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "interactive"))}
    return matplotlib.rc_context(ours | RC)


def picture(rows: int = 1, columns: int = 1, height: float = 2.8, **more: Any) -> tuple[Picture, Any]:
    """An empty picture of the notebooks' width and its axes; use it, and draw, inside `with style():`.

    Args:
        height: of the whole, in inches.
        more: for `Figure.subplots`, such as sharex.

    Returns:
        the picture; its axes as `Figure.subplots` gives them: one, or an array.
    """
    figure = Picture(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)
