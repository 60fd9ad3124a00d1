"""The responses of an iteration, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from plaudit.monitor.reading import Stage, number, rows
from plaudit.web.rendering import figure

COLOURS = {"advantages": "Advantage", "probability": "Probability", "kl": "KL", "rewards": "Reward", "values": "Value"}
ABOUT = {
    "advantages": "How much better a token did than expected: training makes tokens above 0 more likely.",
    "probability": "How likely the policy was to choose the token.",
    "kl": "The log ratio of policy to reference: what the token adds to the KL of the response, in nats.",
    "rewards": "The score, at the last token, less the KL penalty of each token.",
    "values": "What the critic expects, before the token, of the rest of the response.",
}


@dataclass(frozen=True)
class Token:
    """One token of a response, with its figures as words and its colour as a class."""

    text: str
    shade: str
    shown: str  # the figure that is coloured
    figures: dict[str, str]

    @property
    def label(self) -> str:
        """All figures, for pointer, focus and screen readers."""
        return ", ".join(f"{COLOURS[name].lower()} {value}" for name, value in self.figures.items())


@dataclass(frozen=True)
class Sample:
    """A response."""

    prompt: str
    score: str
    tokens: list[Token]


def iterations(stage: Stage) -> list[int]:
    """The iterations of which tokens were logged."""
    found = {row.get("iteration") for row in rows(stage.folder / "tokens.jsonl")}
    return sorted(i for i in found if isinstance(i, int))


def samples(stage: Stage, iteration: int, colour: str) -> list[Sample]:
    """The responses of an iteration; what is damaged in them is left out."""
    lines = [row for row in rows(stage.folder / "tokens.jsonl") if row.get("iteration") == iteration]
    found = [(row, _figures(row)) for row in lines]
    sizes = [abs(v) for _, figures in found for v in figures.get(colour, []) if v is not None]
    largest = max(sizes, default=0.0) or 1.0
    return [
        Sample(
            str(row.get("prompt", "")),
            _words(number(row.get("score"))),
            [
                Token(
                    str(text),
                    _shade(_at(figures.get(colour, []), i), largest, colour),
                    _words(_at(figures.get(colour, []), i)),
                    {name: _words(_at(values, i)) for name, values in figures.items()},
                )
                for i, text in enumerate(_list(row.get("tokens")))
            ],
        )
        for row, figures in found
    ]


def _figures(row: dict[str, Any]) -> dict[str, list[float | None]]:
    columns = {key: [number(value) for value in _list(row.get(key))] for key in row if isinstance(row[key], list)}
    policy, reference = columns.get("logprobs", []), columns.get("ref_logprobs", [])
    found = {
        "probability": [None if p is None else math.exp(min(0.0, p)) for p in policy],
        "kl": [None if p is None or r is None else p - r for p, r in zip(policy, reference, strict=False)],
    }
    found |= {name: columns[name] for name in ("rewards", "values", "advantages") if name in columns}
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(values: list[float | None], place: int) -> float | None:
    return values[place] if place < len(values) else None


def _words(value: float | None) -> str:
    return "no number" if value is None else figure(round(value, 4))


def _shade(value: float | None, largest: float, colour: str) -> str:
    """One of seven classes: plus-1 to plus-3, minus-1 to minus-3, or none."""
    if value is None:
        return "none"
    part = 1 - value if colour == "probability" else value / largest
    step = math.ceil(3 * min(1.0, abs(part)) - 0.15)
    return f"{'plus' if part > 0 else 'minus'}-{step}" if step else "none"
