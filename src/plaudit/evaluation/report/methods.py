"""What the report and the command line say about `methods.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plaudit.evaluation.report.words import bracketed, interval, number, written

HEADS = ("", "score", "difference", "judged positive", "KL", "distinct", "length", "seconds")
AT_KL_HEADS = ("KL", "", "score", "difference", "to best-of-n", "judged positive", "difference", "to best-of-n")


def findings(content: Mapping[str, Any]) -> list[str]:
    """What `methods.json` shows, in sentences: the order by score, and comparisons at equal KL."""
    rows = sorted(content["methods"], key=lambda row: -row["score_mean"])
    named = [f"{name_of(row['method'])} {written(row['score_mean'], '{:.2f}')}" for row in rows]
    sentences = [f"Mean score after training: {', '.join(named)}."]
    first = content["methods"][0]
    near = [row["method"] for row in content["methods"][1:] if _place(row["score_difference"]) == "within noise of"]
    if near:
        sentences.append(f"Within noise of {name_of(first['method'])}: {', '.join(map(name_of, near))}.")
    for key, what, other in (
        ("score_difference", "score", name_of(first["method"])),
        ("score_above_best_of_n", "score", "best-of-n sampling"),
        ("judge_above_best_of_n", "share judged positive", "best-of-n sampling"),
    ):
        compared = [row for row in content["at_kl"] if name_of(row["method"]) != other and row.get(key)]
        if compared:
            sentences.append(f"By {what}, at the same KL as {other}, {_places(compared, key)}.")
    if first["seeds"] == 1:
        sentences.append("One seed only: the intervals are over prompts, and another seed may lie outside of them.")
    return sentences


def _places(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Which methods are above, level with and below what they are compared with, and at which KL."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        found.setdefault(_place(row[key]), {}).setdefault(row["method"], []).append(f"{row['kl']:g}")
    parts = []
    for place, methods in found.items():
        same: dict[str, list[str]] = {}  # methods that are there at the same KL
        for method, kls in methods.items():
            same.setdefault(_listed(kls), []).append(name_of(method))
        parts.append(f"{place} it: {', '.join(f'{_listed(some)} at {kls} nats' for kls, some in same.items())}")
    return "; ".join(parts)


def _place(difference: Mapping[str, Any]) -> str:
    """Where a difference with an interval lies."""
    low, high = difference["ci95"]
    return "above" if low > 0 else "below" if high < 0 else "within noise of"


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
    for key in ("score_mean", "judge_positive", "kl_mean", "distinct_2"):
        of = key if key == "distinct_2" else key.partition("_")[0]
        found.append(f"{written(number(row, key), '{:.2f}')} {bracketed(interval(row, f'{of}_ci95'))}".rstrip())
    found.insert(2, _difference(row.get("score_difference")))
    forms = {"length_mean": "{:.1f}", "seconds": "{:.0f}"}
    return (*found, *(written(number(row, key), form) for key, form in forms.items()))


def at_kl_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A method at one KL as cells under `AT_KL_HEADS`."""
    found = [f"{row['kl']:g}", name_of(row["method"])]
    for of in ("score", "judge"):
        found.append(written(number(row, of), "{:.2f}"))
        found += [_difference(row.get(f"{of}_{what}")) for what in ("difference", "above_best_of_n")]
    return tuple(found)


def _difference(content: Any) -> str:
    """A difference with its interval; "" where there is none, or for what the others are compared with."""
    ends = interval(content or {}, "ci95")
    if not any(ends or ()):
        return ""
    return f"{written(number(content, 'mean'), '{:+.2f}')} {bracketed(ends, '{:+.2f}')}"
