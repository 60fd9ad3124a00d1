"""HTML tables and texts with coloured numbers.

This is not pandas' Styler because the Styler writes a <style> element, which JupyterLab removes from notebooks that
are not trusted yet. The inline styles used here stay. Where a viewer removes all colours, the signs remain.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NEGATIVE, _POSITIVE = "213,94,0", "0,114,178"  # Okabe and Ito's vermilion and blue, safe for colour-blind readers
_OPACITY = 0.6  # of the strongest colour; text stays readable on light and dark pages
_CELL = "padding:2px 8px;"


@dataclass(frozen=True)
class Html:
    """HTML that a notebook shows when it is the last value of a cell."""

    text: str

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """The text without tags, for viewers that show no HTML."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.text.replace("</tr>", "\n")))

    def __add__(self, other: "Html") -> "Html":
        return Html(self.text + other.text)


def table(
    columns: Mapping[str, Any],
    coloured: Sequence[str] | Mapping[str, float | None] = (),
    digits: int = 2,
    caption: str = "",
) -> Html:
    """A table of texts and numbers from the header and the values of each column. NaN gives an empty cell.

    Args:
        coloured: columns whose cells are vermilion below zero and blue above. The largest number of a column gets the
            strongest colour; a mapping names another number for it.
        digits: decimal places of the numbers that are not integers. Signs are shown if there are negative numbers.
    """
    strongest = coloured if isinstance(coloured, Mapping) else dict.fromkeys(coloured)
    columns = {name: values.tolist() if hasattr(values, "tolist") else list(values) for name, values in columns.items()}
    negative = {name for name, values in columns.items() if any(not isinstance(v, str) and v < 0 for v in values)}
    signed = negative | (set(strongest) if negative & set(strongest) else set())
    heads, cells = [], []
    for name, values in columns.items():
        scale = (strongest[name] or _largest(values)) if name in strongest else 0.0
        look = f"{_CELL}text-align:{'left' if any(isinstance(v, str) for v in values) else 'right'};"
        heads.append(f'<th style="{look}">{html.escape(name)}</th>')
        cells.append([f'<td style="{look}{_colour(v, scale)}">{_text(v, digits, name in signed)}</td>' for v in values])
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    title = f"<p><b>{html.escape(caption)}</b></p>" if caption else ""
    page = f"{title}<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{body}</tbody></table>"
    return Html(page + (_LEGEND if strongest else ""))


def coloured_text(pieces: Sequence[str], values: Sequence[float], prompt: str = "") -> Html:
    """A text with one colour for each piece, by the piece's number, which a tooltip shows; the prompt in italics."""
    scale = _largest(values)
    spans = (
        f'<span style="{_colour(value, scale)}padding:1px 0" title="{value:+.3f}">{html.escape(piece)}</span>'
        for piece, value in zip(pieces, values, strict=True)
    )
    return Html(f"<p><i>{html.escape(prompt)}</i>{''.join(spans)}</p>")


def _text(value: Any, digits: int, signed: bool) -> str:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, int):
        return f"{value:d}"
    if not math.isfinite(value):
        return ""
    value = round(value, digits) + 0.0  # turns -0.0 into 0.0
    return f"{value:{'+' if signed and value else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _largest(values: Sequence[float]) -> float:
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def _colour(value: Any, scale: float) -> str:
    if not scale or not math.isfinite(value):
        return ""
    opacity = _OPACITY * min(abs(value) / scale, 1.0)
    return f"background-color:rgba({_POSITIVE if value > 0 else _NEGATIVE},{opacity:.2f});" if opacity >= 0.01 else ""


_LEGEND = (
    f'<p><small>Colour: <span style="{_colour(-1.0, 1.0)}padding:1px 8px">below zero</span> '
    f'<span style="{_colour(1.0, 1.0)}padding:1px 8px">above zero</span>; '
    "stronger colour means further from zero within the column.</small></p>"
)
