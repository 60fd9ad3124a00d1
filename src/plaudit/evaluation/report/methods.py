"""What the report and the command line say about `methods.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.evaluation.report.words import bracketed, interval, number, written

HEADS = ("", "score", "difference", "judged positive", "KL", "distinct", "length", "seconds")
AT_KL_HEADS = ("KL", "", "score", "against best-of-n sampling", "judged positive", "against best-of-n sampling")


def findings(content: Mapping[str, Any]) -> list[str]:
    """What `methods.json` shows, in sentences: the order by score, and how methods compare with best-of-n sampling."""
    rows = sorted(content["methods"], key=lambda row: -row["score_mean"])
    named = [f"{name_of(row['method'])} {written(row['score_mean'], '{:.2f}')}" for row in rows]
    sentences = [f"Mean score after training: {', '.join(named)}."]
    first = content["methods"][0]
    near = [row["method"] for row in content["methods"][1:] if _place(row["score_difference"]) == "level with"]
    if near:
        sentences.append(f"Within noise of {name_of(first['method'])}: {', '.join(map(name_of, near))}.")
    for of, what in (("score", "score"), ("judge", "share judged positive")):
        found: dict[str, dict[str, list[str]]] = {}
        for row in content["at_kl"]:
            if above := row.get(f"{of}_above_best_of_n"):
                found.setdefault(_place(above), {}).setdefault(row["method"], []).append(f"{row['kl']:g}")
        parts = []
        for place, methods in found.items():
            same: dict[str, list[str]] = {}  # methods that are there at the same KL
            for method, kls in methods.items():
                same.setdefault(_listed(kls), []).append(name_of(method))
            parts.append(f"{place} it: {', '.join(f'{_listed(some)} at {kls} nats' for kls, some in same.items())}")
        if parts:
            sentences.append(f"By {what}, at the KL of best-of-n sampling, {'; '.join(parts)}.")
    if first["seeds"] == 1:
        sentences.append("One seed only: the intervals are over prompts, and another seed may lie outside of them.")
    return sentences


def _place(difference: Mapping[str, Any]) -> str:
    """Where a difference with an interval lies."""
    low, high = difference["ci95"]
    return "above" if low > 0 else "below" if high < 0 else "level with"


def _listed(words: list[str]) -> str:
    """Words with commas, and "and" before the last."""
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


def name_of(method: str) -> str:
    """A method as running text has it: PPO, best-of-n."""
    words = method.replace("_", "-")
    return words if "-" in words else words.upper()


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A method of `methods.json` as cells under `HEADS`, with its intervals."""
    found = [name_of(row["method"])]
    for key in ("score_mean", "judge_positive", "kl_mean"):
        of = key.partition("_")[0]
        found.append(f"{written(number(row, key), '{:.2f}')} {bracketed(interval(row, f'{of}_ci95'))}".rstrip())
    difference = row.get("score_difference") or {}
    if not any(interval(difference, "ci95") or ()):  # the one that the others are compared with
        difference = {}
    apart = f"{written(number(difference, 'mean'), '{:+.2f}')} {bracketed(interval(difference, 'ci95'), '{:+.2f}')}"
    found.insert(2, apart.rstrip())
    forms = {"distinct_2": "{:.2f}", "length_mean": "{:.1f}", "seconds": "{:.0f}"}
    return (*found, *(written(number(row, key), form) for key, form in forms.items()))


def at_kl_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A method at one KL as cells under `AT_KL_HEADS`."""
    found = [f"{row['kl']:g}", name_of(row["method"])]
    for of in ("score", "judge"):
        above = row.get(f"{of}_above_best_of_n") or {}
        apart = f"{written(number(above, 'mean'), '{:+.2f}')} {bracketed(interval(above, 'ci95'), '{:+.2f}')}"
        found += [written(number(row, of), "{:.2f}"), apart.rstrip()]
    return tuple(found)
