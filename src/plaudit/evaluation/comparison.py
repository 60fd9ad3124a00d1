"""The figures of methods side by side: at the end of training, during it, and at equal KL, with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plaudit.evaluation.metrics import over_seeds_ci95, resamples, seeds_and_prompts_ci95
from plaudit.evaluation.points import Figures, above_best_of_n, shown_best_of_n, summary

KL = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats at which methods are compared


@dataclass(frozen=True)
class Trained:
    """A method with one seed: its policies during training, the last one at the end."""

    method: str
    seed: int
    points: dict[int, Figures]  # by step
    seconds: float  # of training and sampling

    @property
    def final(self) -> Figures:
        """The policy that training ends with."""
        return self.points[max(self.points)]


def compared(trained: Sequence[Trained], curve: dict[int, Figures], seed: int) -> dict[str, Any]:
    """The figures of all methods: at the end of training, during it, and at equal KL.

    A difference is paired by prompts and seeds; its interval is over both.
    """
    names = tuple(dict.fromkeys(t.method for t in trained))
    groups = {name: [t for t in trained if t.method == name] for name in names}
    first = groups[names[0]]
    rows = []
    for name, group in groups.items():
        row: dict[str, Any] = {"method": name, "seeds": len(group)}
        for of, key in (
            ("score", "score_mean"),
            ("judge", "judge_positive"),
            ("kl", "kl_mean"),
            ("length", "length_mean"),
        ):
            if of in group[0].final:
                row[key] = float(np.mean([t.final[of].mean() for t in group]))
                row[f"{of}_ci95"] = list(over_seeds_ci95([t.final[of] for t in group]))
                apart = [a.final[of] - b.final[of] for a, b in zip(group, first, strict=True)]
                row[f"{of}_difference"] = {"mean": float(np.mean(apart)), "ci95": list(over_seeds_ci95(apart))}
        distinct = np.concatenate([t.final["distinct_2"] for t in group])
        without = np.mean([t.final["distinct_2_without"] for t in group], axis=0)  # as in `jackknife_ci95`
        of_prompts = float((len(without) - 1) * without.var())
        row["distinct_2"] = float(distinct.mean())
        row["distinct_2_ci95"] = list(seeds_and_prompts_ci95(distinct, of_prompts, len(without)))
        row["seconds"] = float(np.mean([t.seconds for t in group]))
        row["of_seeds"] = [{"seed": t.seed, "seconds": t.seconds, **summary(t.final, seed)} for t in group]
        rows.append(row)
    points = []
    for t in trained:
        for step, found in sorted(t.points.items()):
            if step:
                above = {
                    f"{of}_above_best_of_n": above_best_of_n(found, curve, of, seed)
                    for of in ("score", "judge")
                    if of in found
                }
                points.append({"method": t.method, "seed": t.seed, "step": step, **summary(found, seed), **above})
    return {
        "methods": rows,
        "points": points,
        "best_of_n": shown_best_of_n(curve, seed),
        "at_kl": [row for kl in KL for row in at_kl(groups, curve, kl, seed)],
    }


def at_kl(groups: dict[str, list[Trained]], curve: dict[int, Figures], kl: float, seed: int) -> list[dict[str, Any]]:
    """Every method at the same KL, between its policies during training, beside best-of-n and the first method there.

    Only methods that pass this KL with every seed: no score is known between the SFT model and the first policy that
    was measured. Best-of-n is left out where it has less KL with all its draws.
    """
    n = len(next(iter(curve.values()))["kl"])
    weights = np.vstack([np.full(n, 1 / n), resamples(n, seed)])  # first the prompts as they are
    nats = weights @ np.stack([f["kl"] for f in curve.values()], axis=1)
    passing = {name: [passed(t, kl) for t in group] for name, group in groups.items()}
    pairs = {name: [pair for pair in found if pair] for name, found in passing.items() if all(found)}
    rows: list[dict[str, Any]] = [{"kl": kl, "method": name} for name in pairs]
    for of in ("score", "judge"):
        if of not in next(iter(curve.values())):
            continue
        best = weights @ np.stack([f[of] for f in curve.values()], axis=1)
        base = np.array([np.interp(kl, x, y) for x, y in zip(nats, best, strict=True)])[:, None]
        values = {
            name: np.stack([_between(*pair, of, kl, weights) for pair in found], axis=1)  # (resamples, seeds)
            for name, found in pairs.items()
        }
        for row in rows:
            own = values[row["method"]]
            row[of] = float(own[0].mean())
            if kl <= nats[0, -1]:
                row[f"{of}_above_best_of_n"] = _apart(own - base, n)
            if (first := next(iter(groups))) in values:
                row[f"{of}_difference"] = _apart(own - values[first], n)
    return rows


def passed(trained: Trained, kl: float) -> tuple[Figures, Figures] | None:
    """The two neighbouring policies of a training between which its KL first reaches `kl`; None if it does not."""
    policies = [found for step, found in sorted(trained.points.items()) if step]
    nats = [float(found["kl"].mean()) for found in policies]
    for number in range(1, len(policies)):
        if nats[number - 1] <= kl <= nats[number]:
            return policies[number - 1], policies[number]
        if nats[number - 1] > kl:
            break
    return None


def _between(low: Figures, high: Figures, of: str, kl: float, weights: np.ndarray) -> np.ndarray:
    """(resamples,) a figure at `kl`, on the line between two policies."""
    (x0, y0), (x1, y1) = ((weights @ found["kl"], weights @ found[of]) for found in (low, high))
    share = np.clip((kl - x0) / np.maximum(x1 - x0, 1e-9), 0, 1)  # a resample may have other KL
    return y0 + share * (y1 - y0)


def _apart(values: np.ndarray, n: int) -> dict[str, Any]:
    """A difference (resamples, seeds) with its interval over seeds and n prompts; the first row is not resampled."""
    of_prompts = float(values[1:].mean(1).var())
    return {"mean": float(values[0].mean()), "ci95": list(seeds_and_prompts_ci95(values[0], of_prompts, n))}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The methods as CSV: a line for each seed, with the method's own figures and differences after it."""
    columns = ["method", "seed", "score_mean", "judge_positive", "kl_mean", "distinct_2", "length_mean", "seconds"]
    lines: list[dict[str, Any]] = []
    for row in rows:
        lines += [{"method": row["method"], **one} for one in row["of_seeds"]]
        lines.append(_flat(row) | {"seed": "mean"})
    return _csv([*columns, *(name for name in lines[-1] if name.endswith(("_low", "_high")))], lines)


def table_at_kl(rows: Sequence[dict[str, Any]]) -> str:
    """The methods at equal KL as CSV."""
    lines = [_flat(row) for row in rows]
    return _csv(list(dict.fromkeys(name for line in lines for name in line)) or ["kl", "method"], lines)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose differences and intervals are columns of their own."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {name: value["mean"], f"{name}_low": value["ci95"][0], f"{name}_high": value["ci95"][1]}
        elif name.endswith("_ci95"):
            stem = name.removesuffix("_ci95")
            found |= {f"{stem}_low": value[0], f"{stem}_high": value[1]}
        elif name != "of_seeds":
            found[name] = value
    return found


def _csv(columns: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
