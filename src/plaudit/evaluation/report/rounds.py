"""The rounds of `plaudit loop` on the page of its run directory, from `loop.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from plaudit.evaluation.report.figures import AFTER, COST, MUTED, TALL, columns, label, new_figure, svg
from plaudit.evaluation.report.words import bracketed, interval, number, written

HEADS = (
    *("round", "votes so far", "reward model right", "two people agree", "best trivial rule"),
    *("compared", "votes on that", "win rate"),
)


def best_rule(row: Mapping[str, Any]) -> tuple[str, float | None]:
    """The trivial rule that is right most often about the held-out votes of a round, and how often it is."""
    rules = row.get("trivial_rules")
    known = {
        name: share
        for name in (rules if isinstance(rules, Mapping) else ())
        if (share := number(rules, name)) is not None
    }
    best = max(known, key=known.__getitem__, default="")
    return best, known.get(best)


def compared(row: Mapping[str, Any]) -> str:
    """Which two models the votes of a round compared; a round asks about policies that are there when it begins."""
    asked = number(row, "number")
    if asked is None or number(row, "win_rate") is None:
        return ""
    return f"policy {asked - 1:.0f} with {'the SFT model' if asked == 2 else f'policy {asked - 2:.0f}'}"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A round as cells under `HEADS`."""
    name, share = best_rule(row)
    shares = [
        f"{written(number(row, key), '{:.0%}')} {bracketed(interval(row, f'{key}_ci95'), '{:.0%}')}".rstrip()
        for key in ("accuracy", "agreement", "win_rate")
    ]
    votes = [written(number(row, key), "{:.0f}") for key in ("number", "votes", "compared")]
    rule = f"{written(share, '{:.0%}')} ({name})" if name else "–"
    return (votes[0], votes[1], shares[0], shares[1], rule, compared(row) or "–", votes[2], shares[2])


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """What people found, in one sentence for each comparison of two policies."""
    found = []
    for row in rows:
        ends, share = interval(row, "win_rate_ci95"), number(row, "win_rate")
        if share is None or ends is None or not compared(row):
            continue
        new, _, old = compared(row).partition(" with ")
        clear = "preferred" if ends[0] > 0.5 else "did not prefer" if ends[1] < 0.5 else "did not clearly prefer"
        rate = f"{written(share, '{:.0%}')} {bracketed(ends, '{:.0%}')} of {number(row, 'compared') or 0:.0f} votes"
        found.append(f"People {clear} {new} to {old}: {rate}.")
    if not found:
        counted = "1 round" if len(rows) == 1 else f"{len(rows)} rounds"
        return f"{counted} of votes; the next round compares its policy with the SFT model."
    return " ".join(found)


def figure(rows: Sequence[dict[str, Any]]) -> str:
    """The rounds of `loop.json`: the win rates that people's votes gave, above the accuracy of the reward models."""
    if not columns(rows, "number", "accuracy").size:
        return ""
    titles = ["win rate against the policy before (%); dashed: equal", "right about held-out votes (%)"]
    with new_figure("rounds", titles, "round", TALL // 2 + 30) as (drawing, (upper, lower)):
        upper.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for axes, key, colour in ((upper, "win_rate", AFTER), (lower, "accuracy", AFTER)):
            some = [row for row in rows if columns([row], "number", key).size and interval(row, f"{key}_ci95")]
            if not some:
                continue
            x, y = columns(some, "number", key)
            axes.vlines(
                x, *100 * np.array([row[f"{key}_ci95"] for row in some]).T, color=colour, linewidth=2, alpha=0.5
            )
            axes.plot(x, 100 * y, color=colour, linewidth=1.2, marker="o", markersize=5)
            label(axes, x[-1], 100 * y[-1], f"{100 * y[-1]:.0f}" if key == "win_rate" else "model", (7, -4))
        best = [{"number": row.get("number"), "share": best_rule(row)[1]} for row in rows]
        for found, key, name, marker in ((rows, "agreement", "people", "s"), (best, "share", "best rule", "x")):
            x, y = columns(found, "number", key)
            if len(x):
                lower.plot(x, 100 * y, color=COST, linewidth=0, marker=marker, markersize=6)
                label(lower, x[-1], 100 * y[-1], name, (7, -4), COST)
        upper.set_ylim(0, 100)
        lower.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        lower.set_xlim(0.7, len(rows) + 0.3)
        return svg(drawing, "win rate and accuracy of the reward model in each round")
