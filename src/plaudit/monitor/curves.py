"""The curves of a stage as coordinates of an SVG drawing, each with its healthy band and its reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.evaluation.health import SUPERVISED_WINDOW, WINDOW, band_of, reading
from plaudit.monitor.reading import number
from plaudit.web.rendering import figure
from plaudit.web.security import named

WIDTH, HEIGHT = 520, 170
_MOST = 400  # points of a line; more than a screen can show
_FIRST = ("score", "kl", "reward", "entropy", "loss", "accuracy")  # these stand first
_WORDS = {"healthy": "in its band", "high": "above its band", "low": "below its band", "unknown": ""}

Line = dict[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One figure over the steps."""

    key: str
    title: str
    unit: str
    state: str  # healthy, high, low, unknown
    words: str
    text: str
    now: str
    other: str  # the value of the other run at the latest common step; "" without one
    difference: str
    common: int | None
    lines: list[list[Point]]  # pieces: a value that is missing leaves a gap
    others: list[list[Point]]
    band: tuple[float, float] | None  # y of its upper edge, and its height
    band_words: str
    ticks: list[tuple[float, str]]
    first: int
    last: int

    @property
    def label(self) -> str:
        """The drawing in words."""
        words = f"{self.title}, steps {self.first} to {self.last}: now {self.now}"
        return words + (f", {self.words} ({self.band_words})" if self.words else "")


def curves(lines: Sequence[Line], others: Sequence[Line], kind: str) -> list[Curve]:
    """Every figure that is known, beside those of another run."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    order = {name: i for i, name in enumerate(_FIRST)}
    found = []
    for name in sorted(names, key=lambda n: order.get(n, len(order))):
        if band_of(name, kind) is not None and (curve := _curve(name, lines, others, kind)) is not None:
            found.append(curve)
    return found


def _curve(key: str, lines: Sequence[Line], others: Sequence[Line], kind: str) -> Curve | None:
    band = band_of(key, kind)
    own, beside = _points(lines, key), _points(others, key)
    known = [y for _, y in own + beside if y is not None]
    if band is None or not known:
        return None
    first = min(x for x, _ in own + beside)
    last = max(x for x, _ in own + beside)
    window = SUPERVISED_WINDOW if kind in ("sft", "reward_model") else WINDOW
    values = [y for _, y in own]
    ends = band.ends(values, window)
    low, high = min(known), max(known)
    for end in ends:  # near ends of the band are shown; a far one would flatten the curve
        if end is not None and low - (high - low or 1) <= end <= high + (high - low or 1):
            low, high = min(low, end), max(high, end)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room

    def x_of(step: float) -> float:
        return WIDTH * (step - first) / max(1, last - first)

    def y_of(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    said = reading(key, values, kind)
    shaded = None
    if ends != (None, None):
        top = max(0.0, y_of(ends[1])) if ends[1] is not None else 0.0
        bottom = min(float(HEIGHT), y_of(ends[0])) if ends[0] is not None else float(HEIGHT)
        shaded = (top, max(0.0, bottom - top)) if bottom > top else None
    steps, there = dict(own), dict(beside)
    common = max((x for x in steps if steps[x] is not None and there.get(x) is not None), default=None)
    other = difference = ""
    if common is not None:
        mine, its = steps[common], there[common]
        if mine is not None and its is not None:
            other, difference = figure(its), f"{'+' if its >= mine else '−'}{figure(abs(its - mine))}"
    latest = next((y for y in reversed(values) if y is not None), None)
    ticks = [(y_of(low + room + f * (high - low - 2 * room)), figure(low + room + f * (high - low - 2 * room)))
             for f in (0, 0.5, 1)]  # fmt: skip
    return Curve(
        key, named(band.name), band.unit, said.state, _WORDS[said.state], said.text,
        "no number" if values and values[-1] is None else figure(latest) if latest is not None else "–",
        other, difference, common,
        _pieces(own, x_of, y_of), _pieces(beside, x_of, y_of), shaded, _between(ends), ticks, int(first), int(last),
    )  # fmt: skip


def _between(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    if low is not None and high is not None:
        return f"healthy: {figure(low)} to {figure(high)}"
    if high is not None:
        return f"healthy: up to {figure(high)}"
    return f"healthy: from {figure(low)} up" if low is not None else ""


def _points(lines: Sequence[Line], key: str) -> list[tuple[int, float | None]]:
    return [(line["step"], number(line.get(key))) for line in lines]


def _pieces(points: Sequence[tuple[int, float | None]], x_of: Any, y_of: Any) -> list[list[Point]]:
    """Lines without the steps that have no value; of long ones every n-th point, and the last."""
    every = max(1, len(points) // _MOST)
    pieces: list[list[Point]] = [[]]
    for i, (x, y) in enumerate(points):
        if y is None:
            pieces.append([])
        elif i % every == 0 or i == len(points) - 1:
            pieces[-1].append((x_of(x), y_of(y)))
    return [piece for piece in pieces if piece]
