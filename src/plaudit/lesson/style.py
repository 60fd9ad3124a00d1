"""The look of the notebooks' figures: size, fonts and colours."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart. The report uses the same ones.
INK, MUTED, GRID = "#1c1d21", "#5d616b", "#dedcd5"
BLUE, ORANGE, GREEN, PURPLE, YELLOW, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#85888f"
PALETTE = (GREY, YELLOW, GREEN, BLUE, ORANGE, PURPLE)
BEFORE, AFTER, COMPARED = GREY, BLUE, ORANGE  # the model before training; after training; what it is compared with

_WIDTH = 7.0  # inches: the text column of a notebook
_SAVED_DPI, _SHOWN_DPI = 144, 96  # at 96 dots an inch, text in a figure is as large as the text around it
_STYLE = {
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


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows when it is the last value of a cell.

    It is outside pyplot, so it needs no backend and is never shown twice.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", _STYLE]):
            self.savefig(buffer, format="png", dpi=_SAVED_DPI)
        width, height = (round(inches * _SHOWN_DPI) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


@contextlib.contextmanager
def new_figure(
    rows: int = 1, columns: int = 1, height: float = 2.8, **options: Any
) -> Iterator[tuple[NotebookFigure, Any]]:
    """A figure of the notebooks' width and `height` inches, and its axes from `Figure.subplots` with the `options`."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = NotebookFigure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)
