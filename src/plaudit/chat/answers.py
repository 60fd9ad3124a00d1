"""Answers as the page shows them: figures as words, and each token's probability as a number and a colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from plaudit.chat.models import BASE
from plaudit.chat.session import Session, Turn
from plaudit.config import ALGORITHMS, heading
from plaudit.web.rendering import figure

# Below each probability a token is shaded one step more: unlikely tokens stand out.
STEPS = (0.5, 0.2, 0.05, 0.01)


@dataclass(frozen=True)
class Token:
    """A token of an answer."""

    text: str  # empty for the first tokens of a character that has several
    ends: bool  # whether it is the token that ends the answer
    probability: str
    exact: str  # four digits, or as a power of ten
    logprob: str
    kl: str
    shade: int  # steps below the likely ones
    alternatives: list[tuple[str, str, bool]]  # text, probability, and whether it is this token

    @property
    def label(self) -> str:
        """For screen readers."""
        others = ", ".join(f"{spoken(text)} {probability}" for text, probability, _ in self.alternatives)
        return f"{spoken(self.text)}: probability {self.exact}. Likeliest: {others}"


@dataclass(frozen=True)
class Answer:
    """An answer of a model."""

    place: int  # from 1
    text: str
    figures: list[tuple[str, str, str]]  # name, value, unit or remark
    tokens: list[Token]
    note: str


@dataclass(frozen=True)
class Side:
    """The answers of a model to a turn."""

    name: str
    answers: list[Answer] | None  # None before they are there
    mean: float | None  # score


def title_of(name: str) -> str:
    """A model's name as a heading."""
    return "Base model" if name == BASE else heading(name) if name in ALGORITHMS else name


def spoken(text: str) -> str:
    """A token's text for people: with names for what cannot be seen."""
    if not text:
        return "part of a character"
    return text.replace("\n", "↵") if text.strip() else {" ": "space"}.get(text, "white space")


def percent_of(logprob: float | None) -> str:
    """A probability in three characters or four."""
    if logprob is None:
        return "0%"
    share = 100 * math.exp(min(0.0, logprob))
    return "<1%" if share < 0.5 else ">99%" if 99.5 <= share < 99.995 else f"{share:.0f}%"


def shade(logprob: float | None) -> int:
    """How many steps a probability lies below the likely ones, from 0 to 4."""
    return sum(logprob is None or logprob < math.log(step) for step in STEPS)


def sides(session: Session, turn: Turn) -> list[Side]:
    """What both models answered."""
    found = []
    for name, rows in zip(session.names, turn.sides, strict=True):
        answers = None if rows is None else [_answer(row, place, session) for place, row in enumerate(rows, 1)]
        scores = [row["score"] for row in rows or [] if row.get("score") is not None]
        found.append(Side(name, answers, sum(scores) / len(scores) if scores else None))
    return found


def difference(both: list[Side]) -> str:
    """Which model's mean score is higher, and by how much; "" where one has none."""
    before, after = both
    if before.mean is None or after.mean is None:
        return ""
    gap = abs(after.mean - before.mean)
    if float(f"{gap:.3g}") < 0.005:
        return "the scores are equal"
    high, low = (after, before) if after.mean > before.mean else (before, after)
    return f"{title_of(high.name)} scores {figure(gap)} higher than {title_of(low.name)}"


def _answer(row: dict[str, Any], place: int, session: Session) -> Answer:
    parts, tokens = row.get("parts") or {}, row["ids"]
    figures = []
    if row.get("score") is not None:
        figures.append(("Score", figure(row["score"]), ""))
    if len(parts) > 1:
        figures += [(name, "no number" if value is None else figure(value), "") for name, value in parts.items()]
    if row.get("judge") is not None:
        verdict = "positive" if row["judge"] > 0.5 else "negative"
        figures.append(("Judge", verdict, f"{row['judge']:.0%} positive"))
    length = f"{len(tokens)} token{'s' * (len(tokens) != 1)}"
    figures.append(("Length", length, "ended" if row["ended"] else "cut off"))
    if row.get("kl") is not None:
        figures.append(("KL", figure(row["kl"]), "nats"))
    return Answer(place, row["text"], figures, _tokens(row), row.get("no_score", ""))


def _tokens(row: dict[str, Any]) -> list[Token]:
    last, each_kl = len(row["ids"]) - 1, row.get("token_kl") or [None] * len(row["ids"])
    found = []
    columns = (row["pieces"], row["ids"], row["logprobs"], row["alternatives"], each_kl)
    for place, (text, id, logprob, others, kl) in enumerate(zip(*columns, strict=True)):
        ends = row["ended"] and place == last
        alternatives = [(other, percent_of(p), other_id == id) for other, p, other_id in others]
        kl_words = "–" if kl is None else figure(round(kl, 4))
        exact = "0" if logprob is None else figure(math.exp(min(0.0, logprob)))
        logs = "–" if logprob is None else figure(logprob)
        found.append(Token(text, ends, percent_of(logprob), exact, logs, kl_words, shade(logprob), alternatives))
    return found
