"""Sweeps: a run for each point of a grid of settings and each seed, and which point is best.

DIR/settings/ppo.kl_coef=0.1,seed=1.toml   the settings of a run
DIR/ppo.kl_coef=0.1,seed=1/                its run directory; stages made from equal inputs share their files
DIR/logs/ppo.kl_coef=0.1,seed=1.log        what its commands printed
DIR/sweep.json, sweep.csv                  the figures of all runs, and the comparison
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.config import POLICIES, build, read_saved, resolve
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.metrics import over_seeds_ci95, strict
from plaudit.evaluation.report.words import number
from plaudit.evaluation.seeds import row_of
from plaudit.files import link_or_copy, partial_of, write_atomic, write_json
from plaudit.rewards import sources_of
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run

MEASURES = {"score": "policy_score", "judge": "policy_judge"}  # columns of responses.jsonl


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    point: str  # the settings that the sweep chose, "ppo.kl_coef=0.1"
    settings: dict[str, Any]  # by full name, the seed included
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.point},seed={self.seed}".replace("/", "_")


def grid(sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of every point by its name, from texts such as "ppo.kl_coef=0.05,0.1".

    Raises:
        ConfigError: a text is no list of values, or a name or value is not allowed.
    """
    axes: dict[str, list[str]] = {}
    for text in sets:
        name, equals, values = text.partition("=")
        found = [value.strip() for value in values.split(",")]
        if not (equals and name.strip() and all(found)):
            raise ConfigError(f"--set {text}: write a setting and its values, as in --set ppo.kl_coef=0.05,0.1")
        if name.strip() == "seed":
            raise ConfigError("--set seed: use --seeds, which trains every point with the same seeds")
        if len({*found}) < len(found) or name.strip() in axes:
            raise ConfigError(f"--set {text}: names a setting or a value twice")
        axes[name.strip()] = found
    if not axes:
        raise ConfigError("a sweep needs a setting to vary, as in --set ppo.kl_coef=0.05,0.1")
    points: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        settings = resolve(chosen)  # refuses unknown names and wrong values
        if any(all(settings[n] == resolve(other)[n] for n in chosen) for other in points.values()):
            raise ConfigError(f"--set: {', '.join(combination)} is another point under another name")
        points[",".join(f"{name}={value}" for name, value in chosen.items())] = chosen
    return points


def check_comparable(points: dict[str, dict[str, Any]], by: str) -> None:
    """Refuse to compare by score points that do not have the same scorer.

    Raises:
        ConfigError: a setting varies on which the reward model or the reward depends.
    """
    others = {name for settings in points.values() for name in settings if name.partition(".")[0] not in POLICIES}
    if by == "score" and others:
        raise ConfigError(
            f"--set {min(others)}: each point would be scored by a reward of its own; compare them with --by judge"
        )


def stages_of(points: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The stages that each run of a sweep goes through: the policy is that whose settings vary, otherwise PPO's.

    Raises:
        ConfigError: settings of several policies vary.
    """
    named = {name.partition(".")[0] for settings in points.values() for name in settings}
    found = [policy for policy in POLICIES if policy in named]
    if len(found) > 1:
        raise ConfigError(f"a sweep varies the settings of one policy, not of {' and '.join(found)}")
    return ("sft", "reward_model", *(found or ["ppo"]), "evaluation")


def representatives(runs: Sequence[Run], stage: str) -> dict[str, list[Run]]:
    """The runs in which a stage has equal inputs, by the fingerprint of these; the first of each trains it."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        sources = sources_of(None, run.config.reward) if stage in POLICIES else ()
        inputs = run.inputs(stage, sources)
        name = json.dumps([inputs["fingerprint"], inputs.get("reward_files")])
        found.setdefault(name, []).append(run)
    return found


def check_begun(runs: Sequence[Run], stages: Sequence[str]) -> None:
    """Refuse to continue a sweep with other settings or data than it was begun with.

    Raises:
        RunError: a finished stage was made from something else.
    """
    for run in runs:
        if (run.path / "config.toml").exists():
            before = build(read_saved(run.path / "config.toml"))
            if run.resolved(run.config).evaluation != before.evaluation:
                raise RunError(f"{run.path}: was evaluated with other settings; choose another --out")
            for stage in stages:
                if stage != "evaluation":
                    run.check_inputs(stage)


def share(source: Run, target: Run, stage: str) -> None:
    """Give `target` the finished stage of `source` as its own: hard links, which take no disk space."""
    folder = target.folder(stage)
    if not (target.path / "config.toml").exists():
        source.branch(target.path, target.config, (stage,))
    elif not target.complete(stage):
        partial = partial_of(folder)
        for path in (partial, folder):
            shutil.rmtree(path, ignore_errors=True)
        ignored = shutil.ignore_patterns("checkpoints")
        shutil.copytree(source.folder(stage), partial, copy_function=link_or_copy, ignore=ignored)
        partial.rename(folder)


def summarise(directory: Path, cells: Sequence[tuple[Cell, Run]], stopped: dict[str, str], by: str) -> dict[str, Any]:
    """Write sweep.json and sweep.csv of finished cells.

    Points are compared by pairs: the same seed, and the same held-out prompts.

    Args:
        stopped: by name, why a cell has no result.
        by: "score" or "judge".

    Returns:
        a row for each cell; for each point its mean and the difference to the best, with 95% intervals over seeds and
        prompts; the best; and a warning where others are within noise of it.
    """
    rows: list[dict[str, Any]] = []
    values, prompts = dict[str, dict[int, np.ndarray]](), dict[int, set[tuple[Any, ...]]]()
    for cell, run in cells:
        if cell.name in stopped:
            rows.append({"point": cell.point, "seed": cell.seed, "diverged": stopped[cell.name]})
            continue
        rows.append({"point": cell.point, "seed": cell.seed, **row_of(run)})
        if rows[-1]["diverged"]:
            continue
        lines = read_jsonl(run.path / "responses.jsonl")
        found = [number(line, MEASURES[by]) for line in lines]
        if None not in found:
            measured = np.array(found, dtype=float)
            values.setdefault(cell.point, {})[cell.seed] = (measured > 0.5) if by == "judge" else measured
            prompts.setdefault(cell.seed, set()).add(tuple(line["prompt"] for line in lines))
    seeds = {cell.seed for cell, _ in cells}
    whole = {point: of for point, of in values.items() if of.keys() == seeds}
    if any(len(each) > 1 for each in prompts.values()):
        raise ConfigError("the points have different held-out prompts, so they cannot be compared in pairs")
    means = {point: float(np.mean([v.mean() for v in of.values()])) for point, of in whole.items()}
    best = max(means, key=lambda point: means[point], default="")
    asked = [next(iter(prompts[seed])) for seed in sorted(seeds)] if whole else []
    points: list[dict[str, Any]] = []
    for point, of in whole.items():
        apart = [of[seed].astype(float) - whole[best][seed] for seed in sorted(seeds)]
        points.append(
            {
                "point": point,
                "mean": means[point],
                "kl": float(np.mean([row["kl"] for row in rows if row["point"] == point])),
                "ci95": list(over_seeds_ci95([of[seed].astype(float) for seed in sorted(seeds)], asked)),
                "below_best": {
                    "mean": float(np.mean([a.mean() for a in apart])),
                    "ci95": [0.0, 0.0] if point == best else list(over_seeds_ci95(apart, asked)),
                },
            }
        )
    near = [p["point"] for p in points if p["point"] != best and p["below_best"]["ci95"][1] >= 0]
    warning = _warning(best, near, len(seeds), by)
    if (kls := [p["kl"] for p in points]) and by == "score" and max(kls) > 1.5 * min(kls) + 0.1:
        warning += "; " if warning else ""
        warning += "the points differ in KL: a higher score at a higher KL does not make a better point"
    content = {"by": by, "runs": rows, "points": points, "best": best, "warning": warning}
    write_json(directory / "sweep.json", strict(content))
    write_atomic(directory / "sweep.csv", _table(rows))
    return content


def _warning(best: str, near: list[str], seeds: int, by: str) -> str:
    if not best:
        return f"no point has a {by} with every seed: runs stopped or diverged, or nothing judges this data"
    if near:
        return f"{best} is best, but within noise of {', '.join(near)}: train more seeds before you choose"
    return "one seed only: another seed may choose another point" if seeds == 1 else ""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*dict.fromkeys(name for row in rows for name in row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
