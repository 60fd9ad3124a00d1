"""Methods side by side: each trained from the same SFT model, for the same reward, on as many responses.

    RUN/methods/
      config.toml                  the settings that everything below was made with
      best-of-n-64.safetensors     figures of 64 responses of SFT to each held-out prompt
      sft.safetensors              figures of the SFT model's own answers
      ppo-1/                       a run directory: PPO with the first seed
      ppo-1/points/                figures of its policies during training
      ppo-1/seconds.json           how long it has been trained
    RUN/methods.json, .csv         the figures; drawn in report.html

A part that exists is used as it is, so that the command continues where it stopped.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from plaudit import rng
from plaudit.config import POLICIES, Config, build, nearest, read_saved, to_toml
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.metrics import crossed_ci95, resamples, strict
from plaudit.evaluation.points import (
    Figures,
    above_best_of_n,
    best_of_n,
    draw,
    measured,
    save,
    shown_best_of_n,
    summary,
    train_and_measure,
)
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.methods import findings
from plaudit.files import write_atomic, write_json
from plaudit.rewards import REWARD_MODEL, AnyReward, described
from plaudit.settings import SamplingConfig
from plaudit.training.metrics import StepReport
from plaudit.training.rewards import needs_reward_model, run_sources
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run
from plaudit.training.versions import versions

CONTROL = "random-of-n"  # best_of_n, which learns from any response of a group
METHODS = (*POLICIES, CONTROL)
KL = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats at which methods are compared
_SECONDS = "seconds.json"
_GROWTH = 1.6  # from one policy that is measured to the next: steps 1, 2, 3, 4, 7, 10, 17, ... and the last one


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


def methods(
    run: Run,
    names: Sequence[str],
    seeds: int,
    budget: int,
    draws: int = 64,
    *,
    overwrite: bool = False,
    reward: AnyReward = None,
) -> Iterator[StepReport]:
    """Train each method with several seeds, and compare them; writes RUN/methods.json and .csv, updates the report.

    Args:
        names: of METHODS; the others are compared with the first.
        seeds: how many, the run's own being the first.
        budget: responses that a method samples in training.
        draws: responses of SFT to each held-out prompt; best-of-n is measured for n up to it.
        reward: as in `ppo`.

    Raises:
        ConfigError: there is no such method, or the budget is smaller than a batch.
        RunError: the SFT or reward model is missing, or the comparison was begun with other settings.
    """
    names = parse(names)
    configs = {(name, seed): config_of(run.config, name, run.config.seed + seed, budget)
               for name in names for seed in range(seeds)}  # fmt: skip
    folder = run.path / "methods"
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "config.toml").exists() and build(read_saved(folder / "config.toml")) != run.config:
        raise RunError(f"{folder}: was begun with other settings of the run; use --overwrite to start again")
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "config.toml", to_toml(run.config, versions()))

    plain = dataclasses.replace(run.config, ppo=dataclasses.replace(run.config.ppo, lora_rank=0))
    seen = {config.seed for config in configs.values()}
    measurement = Measurement(Run(run.path, plain), "ppo", reward, policy="sft", seeds=seen)
    own = folder / "sft.safetensors"
    if not own.exists():
        save(measured(measurement, measurement.sft), own)
    trained = []
    for (name, _), config in configs.items():
        path = folder / f"{name}-{config.seed}"
        yield from _train(measurement, config, name, path, reward)
        points = {int(file.stem): load_file(file) for file in (path / "points").glob("*.safetensors")}
        spent = _seconds(path)
        trained.append(Trained(name, config.seed, {0: load_file(own)} | points, spent))
    drawn = folder / f"best-of-n-{draws}.safetensors"
    if not drawn.exists():
        first = Run(folder / f"{names[0]}-{run.config.seed}", configs[names[0], 0])
        yield from draw(measurement, draws, ScoreScale(**first.summary(stage_of(names[0]))["scale"]), drawn)

    judge, reason = measurement.judge
    content = compared(trained, best_of_n(load_file(drawn)), run.config.seed)
    content["meta"] = {
        "budget": budget,
        "draws": draws,
        "prompts": len(measurement.held_out[1]),
        "reward": described(run_sources(run, reward)) or REWARD_MODEL,
        "judge": judge and judge.meta,
        "no_judge": reason,
    }
    content["findings"] = findings(content)
    write_json(run.path / "methods.json", strict(content))
    write_atomic(run.path / "methods.csv", table(content["methods"]))
    write_report(run.path)


def parse(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of these names, which may have hyphens, each once.

    Raises:
        ConfigError: there is no such method, or none is named.
    """
    known = {name.replace("_", "-"): name for name in METHODS}
    names = [name.strip() for name in names]
    for name in names:
        if name.replace("_", "-") not in known:
            raise ConfigError(f"no method '{name}'{nearest(name, list(known))}; the methods are {', '.join(known)}")
    if not names:
        raise ConfigError(f"name at least one method: {', '.join(known)}")
    return tuple(dict.fromkeys(known[name.replace("_", "-")] for name in names))


def stage_of(method: str) -> str:
    """The algorithm of a method."""
    return "best_of_n" if method == CONTROL else method


def config_of(config: Config, method: str, seed: int, budget: int) -> Config:
    """The settings of a run for a method: sampled as PPO samples, and with `budget` responses.

    Raises:
        ConfigError: the budget is smaller than a batch or a group.
    """
    stage = stage_of(method)
    settings = getattr(config, stage)
    sampling = {f.name: getattr(config.ppo, f.name) for f in fields(SamplingConfig)}
    offline = hasattr(settings, "responses")
    smallest = settings.group_size if offline else settings.batch_size
    if budget < smallest:
        what = "group_size" if offline else "batch_size"
        raise ConfigError(f"a budget of {budget} responses is less than {stage}.{what} = {smallest}")
    if offline:
        groups = budget // settings.group_size
        records = budget if stage == "kto" else groups
        steps = -(-records // settings.batch_size) * settings.epochs
        changes = {"responses": groups * settings.group_size, "save_every": steps}
        changes |= (
            {"source": "drawn"} if hasattr(settings, "source") else {"keep": "random" if method == CONTROL else "best"}
        )
    else:
        iterations = budget // settings.batch_size
        changes = {"iterations": iterations, "save_every": iterations}
    changed = dataclasses.replace(settings, **sampling, **changes)
    return dataclasses.replace(config, seed=seed, keep_checkpoints=0, **{stage: changed})


def _train(
    measurement: Measurement, config: Config, method: str, path: Path, reward: AnyReward
) -> Iterator[StepReport]:
    """Train a method in a branch of the run. Its seconds are those of sampling and training, without measuring.

    A policy moves fastest at first, so it is measured often then, and seldom later.
    """
    run, stage = measurement.run, stage_of(method)
    sub = run.branch(path, config, ("sft", "reward_model") if needs_reward_model(run, reward) else ("sft",))
    if sub.config != sub.resolved(config) or build(read_saved(path / "config.toml")) != sub.config:
        raise RunError(f"{path}: was begun with another budget or other settings; use --overwrite to start again")
    sub = dataclasses.replace(sub, saved_after={round(_GROWTH**power) for power in range(40)})
    file, spent = path / _SECONDS, _seconds(path)
    began: float | None = time.perf_counter()
    for report in train_and_measure(measurement, sub, stage, path.name, reward):
        # Before the first step, models are opened, and responses drawn by methods that do it once.
        spent += time.perf_counter() - began if began is not None else report.timing["seconds"]
        began = None
        write_json(file, {"seconds": spent})
        yield report


def _seconds(path: Path) -> float:
    """How long a method has been trained; 0 where it has not begun."""
    file = path / _SECONDS
    return json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.exists() else 0.0


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
                row[f"{of}_ci95"] = list(crossed_ci95(np.stack([t.final[of] for t in group]), seed))
        for of in ("score", "judge"):
            if of in group[0].final:
                apart = [a.final[of] - b.final[of] for a, b in zip(group, first, strict=True)]
                ends = list(crossed_ci95(np.stack(apart), seed)) if name != names[0] else [0.0, 0.0]
                row[f"{of}_difference"] = {"mean": float(np.mean(apart)), "ci95": ends}
        row["distinct_2"] = float(np.mean([t.final["distinct_2"][0] for t in group]))
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
    """Every method at the same KL, between its policies during training, beside best-of-n at that KL.

    Only methods that have it, with every seed, between the first and the last policy that was measured: no score is
    known between the SFT model and the first one. Each resample draws seeds, and the same prompts for all of them.
    """
    found = []
    n = len(next(iter(curve.values()))["kl"])
    weights = np.vstack([np.full(n, 1 / n), resamples(n, seed)])  # first the prompts as they are
    nats = weights @ np.stack([f["kl"] for f in curve.values()], axis=1)
    for name, group in groups.items():
        reached = [[f["kl"].mean() for step, f in t.points.items() if step] for t in group]
        if not all(min(some) <= kl <= max(some) for some in reached) or nats[0, -1] < kl:
            continue
        row: dict[str, Any] = {"kl": kl, "method": name}
        draws = rng.generator(seed, "methods", 0, "seeds").integers(len(group), size=(len(weights) - 1, len(group)))
        chosen = np.vstack([np.arange(len(group)), draws])  # (resamples, seeds)
        for of in ("score", "judge"):
            if of not in group[0].final:
                continue
            best = np.stack([f[of] for f in curve.values()], axis=1)
            each = np.stack([_at(t, of, kl, weights) for t in group], axis=1)  # (resamples, seeds)
            base = np.array([np.interp(kl, x, y) for x, y in zip(nats, weights @ best, strict=True)])
            values = np.take_along_axis(each, chosen, axis=1).mean(1)
            apart = values - base
            row[of] = float(values[0])
            row[f"{of}_above_best_of_n"] = {
                "mean": float(apart[0]), "ci95": np.quantile(apart[1:], [0.025, 0.975]).tolist()
            }  # fmt: skip
        found.append(row)
    return found


def _at(trained: Trained, of: str, kl: float, weights: np.ndarray) -> np.ndarray:
    """(resamples,) a figure of a training where its KL is `kl`, between the policies on either side."""
    policies = sorted(trained.points.values(), key=lambda f: float(f["kl"].mean()))
    nats, values = (weights @ np.stack([f[name] for f in policies], axis=1) for name in ("kl", of))
    # A resample may change the order of two policies of nearly the same KL.
    order = np.argsort(nats, axis=1, kind="stable")
    nats, values = np.take_along_axis(nats, order, 1), np.take_along_axis(values, order, 1)
    return np.array([np.interp(kl, x, y) for x, y in zip(nats, values, strict=True)])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The methods as CSV: a line for each seed, with the method's own figures after it."""
    out = io.StringIO()
    columns = ["method", "seed", "score_mean", "judge_positive", "kl_mean", "distinct_2", "length_mean", "seconds"]
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerows({"method": row["method"], **one} for one in row["of_seeds"])
        writer.writerow(row | {"seed": "mean"})
    return out.getvalue()
