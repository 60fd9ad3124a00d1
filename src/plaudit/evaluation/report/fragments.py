"""Pieces of the page. Whatever came from a file passes through `inert` on its way into HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from plaudit.evaluation.report.words import MEASURES, Measure, bracketed, interval, number, written

LONGEST_TEXT = 1500  # characters of a prompt or a response on the page
TILES = 8  # of the measures, the first ones

# Control characters and lone surrogates: a model can emit them, a page cannot hold them.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def inert(value: Any, longest: int = LONGEST_TEXT) -> str:
    """`value` as text that HTML cannot mistake for anything else, cut after `longest` characters."""
    text = str(value)
    if len(text) > longest:
        text = text[:longest] + " …"
    return html.escape(_UNPRINTABLE.sub("\ufffd", text))


def section(title: str, lead: str, body: str) -> str:
    """A titled part of the page."""
    return f'<section><h2>{title}</h2><p class="lead">{lead}</p>\n{body}</section>'


def card(title: str, svg: str, caption: str = "") -> str:
    """A figure with its title and what to see in it; nothing without a drawing."""
    heading = f"<h3>{title}</h3>" if title else ""
    note = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{heading}{svg}{note}</figure>\n" if svg else ""


def grid(cards: Iterable[str]) -> str:
    """Cards side by side on a desk, one below the other on a phone."""
    body = "".join(cards)
    return f'<div class="figures">{body}</div>' if body else ""


def fold(title: str, body: str) -> str:
    """A part that opens when its title is clicked; nothing when it is empty."""
    return f"<details><summary>{title}</summary>{body}</details>\n" if body else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "plain") -> str:
    """A table of inert cells; nothing without rows."""
    body = "".join("<tr>" + "".join(f"<td>{inert(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    top = "".join(f"<th>{head}</th>" for head in heads)
    whole = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>'
    return f'<div class="scroll">{whole}</div>\n' if body else ""


def tiles(sft: dict[str, Any], policy: dict[str, Any]) -> str:
    """The headline figures, before and after, each with what it means."""
    out = []
    for m in MEASURES[:TILES]:
        before, after = number(sft, m.key), number(policy, m.key)
        if before is None and after is None:
            continue
        ends = interval(policy, "score_ci95") if m.key == "score_mean" else None
        note = f"95 % interval {bracketed(ends)}" if ends else ""
        out.append(
            f'<section class="tile"><h3>{m.name}</h3>'
            f'<p class="change">{written(before, m.form)} → <b>{written(after, m.form)}</b></p>'
            f'<p class="about">{m.about}</p>'
            f'<div class="foot"><span>{note}</span>{_track(before, after, m)}</div></section>\n'
        )
    return f'<div class="tiles">\n{"".join(out)}</div>\n' if out else ""


def responses(rows: Iterable[dict[str, Any]]) -> str:
    """What SFT and the policy wrote to the same prompts, side by side, with their scores."""
    sides = {"sft": "Before PPO (SFT)", "policy": "After PPO (policy)"}
    top = "".join(f"<th>{label}</th>" for label in sides.values())
    out = [f'<table class="texts"><thead><tr>{top}</tr></thead><tbody>\n']
    for row in rows:
        cells = []
        for side, label in sides.items():
            judge = number(row, f"{side}_judge")
            judged = "" if judge is None else f"<span>judge: {written(judge, '{:.0%}')} positive</span>"
            score = _score(number(row, f"{side}_score"))
            text = f"<b>{inert(row.get('prompt', ''))}</b>{inert(row.get(side, ''))}"
            head = f'<div class="score">{score}{judged}</div>'
            cells.append(f'<td data-label="{label}">{head}<p><bdi>{text}</bdi></p></td>')
        out.append(f"<tr>{''.join(cells)}</tr>\n")
    return "".join(out) + "</tbody></table>\n"


def _score(score: float | None) -> str:
    """A score in figures, and as a bar from the middle (0) leftwards to −1 or rightwards to 1."""
    if score is None:
        return "<b>–</b>"
    width = 50 * min(abs(score), 1)
    left = 50.0 if score >= 0 else 50 - width
    bar = f'<span class="bar" aria-hidden="true"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
    return f"<b>{written(score, '{:+.2f}')}</b>{bar}"


def _track(before: float | None, after: float | None, m: Measure) -> str:
    """Where before (a ring) and after (a dot) lie on the measure's scale."""
    marks = {name: v for name, v in (("before", before), ("after", after)) if v is not None}
    top = m.high if m.high is not None else 1.15 * max(*marks.values(), 1e-9)
    at = {name: 100 * min(max((v - m.low) / (top - m.low), 0), 1) for name, v in marks.items()}
    ends = f"left:{min(at.values()):.1f}%;width:{max(at.values()) - min(at.values()):.1f}%"
    dots = "".join(f'<b class="{name}" style="left:{x:.1f}%"></b>' for name, x in at.items())
    return f'<div class="track" aria-hidden="true"><i style="{ends}"></i>{dots}</div>'
