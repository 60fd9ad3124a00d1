"""Tables as HTML: numbers first, colour as a help.

Colours are thin layers of Okabe and Ito's blue and vermilion, so that the letters of a light and of a dark page both
stay readable on them; where a page strips colours, as some that show notebooks do, the numbers and their signs remain.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

Numbers: TypeAlias = Sequence[float] | np.ndarray | Tensor

_BELOW, _ABOVE = "213,94,0", "0,114,178"  # vermilion and blue, which colour-blind people tell apart
_STRONGEST = 0.6  # of a layer of colour: letters are still read on it
_CELL = "padding:2px 8px;font-variant-numeric:tabular-nums;"


@dataclass(frozen=True)
class Html:
    """A piece of a page that shows itself as the last value of a cell, or by display()."""

    text: str

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """What a place that shows no HTML shows: the letters without the tags."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.text.replace("</tr>", "\n")))

    def __add__(self, other: Html) -> Html:
        return Html(self.text + other.text)


@dataclass(frozen=True)
class Column:
    """Numbers of a table, one a row.

    Attributes:
        name: its head; may be long, it is broken into lines.
        values: one a row; NaN leaves the cell empty.
        form: how a number is written.
        coloured: vermilion below zero and blue above, the stronger the nearer to the column's largest.
        scale: the number that gets the strongest colour; None for the largest of the column.
    """

    name: str
    values: Numbers
    form: str = "{:+.2f}"
    coloured: bool = False
    scale: float | None = None


def table(first: str, rows: Sequence[str], columns: Sequence[Column], caption: str = "") -> Html:
    """Rows of text, each with numbers beside it.

    Args:
        first: head of the texts' column.
        rows: texts, shown as they are.
    """
    heads = "".join(f'<th style="{_CELL}text-align:right">{html.escape(c.name)}</th>' for c in columns)
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(_number(c, i) for c in columns)
        lines.append(f'<tr><td style="{_CELL}text-align:left"><code>{html.escape(row)}</code></td>{cells}</tr>')
    legend = _LEGEND if any(c.coloured for c in columns) else ""
    head = f'<tr><th style="{_CELL}text-align:left">{html.escape(first)}</th>{heads}</tr>'
    return Html(f"{_said(caption)}<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>{legend}")


def texts(heads: Sequence[str], rows: Sequence[Sequence[str | float]], caption: str = "") -> Html:
    """Rows of texts and scores side by side; a float is a score from -1 to 1 and is coloured."""
    head = "".join(f'<th style="{_CELL}text-align:left">{html.escape(h)}</th>' for h in heads)
    lines = ["<tr>" + "".join(_either(cell) for cell in row) + "</tr>" for row in rows]
    legend = _LEGEND if any(isinstance(cell, float) for row in rows for cell in row) else ""
    return Html(f"{_said(caption)}<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{legend}")


def running_text(pieces: Sequence[str], values: Numbers, before: str = "") -> Html:
    """A text whose pieces carry the colour of their number; pointing at one shows it.

    Args:
        before: text in front that has no numbers, such as the prompt.
    """
    largest = _largest(values)
    spans = (
        f'<span style="{_background(value, largest)}padding:1px 0" title="{value:+.3f}">{html.escape(piece)}</span>'
        for piece, value in zip(pieces, values, strict=True)
    )
    return Html(f"<p><i>{html.escape(before)}</i>{''.join(spans)}</p>")


def written(value: float, form: str) -> str:
    """A number with a true minus sign; nothing for NaN; no sign before what is written as zero."""
    if not math.isfinite(value):
        return ""
    text = form.format(value)
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def _said(caption: str) -> str:
    return f"<p><b>{html.escape(caption)}</b></p>" if caption else ""


def _number(column: Column, row: int) -> str:
    value = float(column.values[row])
    colour = ""
    if column.coloured:
        colour = _background(value, column.scale or _largest(column.values))
    return f'<td style="{_CELL}text-align:right;{colour}">{written(value, column.form)}</td>'


def _either(cell: str | float) -> str:
    if isinstance(cell, float):
        return f'<td style="{_CELL}text-align:right;{_background(cell, 1.0)}">{written(cell, "{:+.2f}")}</td>'
    return f'<td style="{_CELL}text-align:left">{html.escape(cell)}</td>'


def _largest(values: Numbers) -> float:
    return max((abs(float(v)) for v in values if math.isfinite(float(v))), default=0.0)


def _background(value: float, largest: float) -> str:
    if not math.isfinite(value) or largest <= 0:
        return ""
    strength = _STRONGEST * min(abs(value) / largest, 1.0)
    return f"background-color:rgba({_ABOVE if value > 0 else _BELOW},{strength:.2f});" if strength >= 0.01 else ""


def _swatch(value: float, word: str) -> str:
    return f'<span style="{_background(value, 1.0)}padding:1px 8px">{word}</span>'


_LEGEND = (
    "<p><small>Colour: "
    + _swatch(-1.0, "far below zero")
    + _swatch(-0.4, "below")
    + '<span style="padding:1px 8px">zero</span>'
    + _swatch(0.4, "above")
    + _swatch(1.0, "far above zero")
    + " within a column.</small></p>"
)
