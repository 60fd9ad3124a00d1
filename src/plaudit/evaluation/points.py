"""Policies measured on the held-out prompts, also during their training, and best-of-n on the same prompts.

Shapes: N held-out prompts, m responses of SFT to each, R the longest response.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from plaudit.data.text import distinct
from plaudit.evaluation.answers import Answers, joined
from plaudit.evaluation.best_of_n import kept, kl_bound, kl_measured
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.metrics import bootstrap_ci95, distinct_without, jackknife_ci95, resamples
from plaudit.files import share_tensors
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.loading import load_causal_lm
from plaudit.models.lora import add_adapters, merge
from plaudit.models.policy import Policy
from plaudit.rewards import AnyReward
from plaudit.training.checkpoint import load_weights, saved_weights
from plaudit.training.metrics import StepReport
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run

Figures = dict[str, np.ndarray]  # score, judge, kl, length: (N,) one a prompt; distinct_2 (1,), distinct_2_without (N,)


def train_and_measure(
    measurement: Measurement, sub: Run, stage: str, name: str, reward: AnyReward = None
) -> Iterator[StepReport]:
    """Train a policy in a branch of the run, and measure it at each of its checkpoints; leaves `points` beside it.

    Args:
        sub: the branch; the policy is measured wherever a checkpoint is saved.
        name: the stage of the reports.
    """
    (sub.path / "points").mkdir(exist_ok=True)
    _measure_checkpoints(measurement, sub, stage)  # after a stop, the last checkpoint may not be measured yet
    if sub.complete(stage):
        return
    for report in getattr(import_module(f"plaudit.algorithms.{stage}"), stage)(sub, reward):
        _measure_checkpoints(measurement, sub, stage)
        yield dataclasses.replace(report, stage=name)
    shutil.rmtree(sub.folder(stage) / "checkpoints", ignore_errors=True)  # measured, and larger than the policy


def _measure_checkpoints(measurement: Measurement, sub: Run, stage: str) -> None:
    models, settings = measurement.models, getattr(sub.config, stage)
    for step, weights in saved_weights(sub.folder(stage) / "checkpoints").items():
        path = sub.path / "points" / f"{step:08d}.safetensors"
        if not path.exists():
            policy = Policy(load_causal_lm(measurement.run.model("sft")), models.engine)
            freeze_lower_layers(policy.lm, settings.train_layers)
            add_adapters(policy.lm, settings, sub.config.seed, stage)
            load_weights(weights, policy)
            merge(policy.lm)
            policy.to(sub.device).eval().requires_grad_(False)
            models.share(policy.lm)
            save(measured(measurement, policy.lm), path)


def measured(measurement: Measurement, lm: Any) -> Figures:
    """The policy's answers to the held-out prompts, with the evaluation's random numbers."""
    answers = _answers(measurement, lm)
    return {"kl": answers.kl.astype(float), **_figures(answers, measurement), **_distinct([answers.tokens])}


def draw(measurement: Measurement, draws: int, scale: ScoreScale, path: Path) -> Iterator[StepReport]:
    """Sample `draws` responses of SFT to every prompt, and save their figures for `best_of_n`.

    Args:
        scale: by which the algorithms rank responses: one that was cut off has a penalty.
    """
    drawn = []
    for number in range(draws):
        began = time.perf_counter()
        answers = _answers(measurement, measurement.sft, "frontier", number, "best of n")
        tokens = np.zeros((len(answers.tokens), measurement.settings.max_new_tokens), dtype=np.int32)
        for row, ids in zip(tokens, answers.tokens, strict=True):
            row[: len(ids)] = ids
        raw, ended = torch.from_numpy(answers.raw_scores), torch.from_numpy(answers.ended)
        ranking = scale.scores(raw, ended).numpy()
        drawn.append({"ranking": ranking, "tokens": tokens, **_figures(answers, measurement)})
        took = time.perf_counter() - began
        timing = {"seconds": took, "tokens_per_second": drawn[-1]["length"].sum() / took}
        yield StepReport("best-of-n", number + 1, draws, {"score": float(answers.scores.mean())}, timing)
    save({name: np.stack([d[name] for d in drawn], axis=1) for name in drawn[0]}, path)


def best_of_n(drawn: Figures) -> dict[int, Figures]:
    """Figures of best-of-n by n, for every n up to the number of draws.

    Args:
        drawn: (N, m) ranking, score, judge, length; tokens (N, m, R), of which the first `length` count.
    """
    curve: dict[int, Figures] = {}
    for n in range(1, drawn["ranking"].shape[1] + 1):
        share = kept(drawn["ranking"], n)
        curve[n] = {of: (share * drawn[of]).sum(1) for of in ("score", "judge", "length") if of in drawn}
        curve[n]["kl"] = kl_measured(drawn["ranking"], n)
        if n & (n - 1) == 0:  # a power of two: shown, and not only interpolated
            curve[n] |= _distinct(_sets(drawn, n))
    return curve


def shown_best_of_n(curve: dict[int, Figures], seed: int) -> list[dict[str, Any]]:
    """The points of best-of-n that a table shows."""
    return [{"n": n, "kl_bound": kl_bound(n), **summary(f, seed)} for n, f in curve.items() if "distinct_2" in f]


def above_best_of_n(point: Figures, curve: dict[int, Figures], of: str, seed: int) -> dict[str, Any]:
    """How far a policy lies above best-of-n at its own KL on the same prompts, with a paired 95% interval.

    Best-of-n is interpolated between neighbouring n, which differ by a fraction of a nat. A policy with more KL than
    the last n (`beyond`) is compared with the last n. Every resample of the prompts has its own KL.
    """
    n = len(point["kl"])
    weights = np.vstack([np.full(n, 1 / n), resamples(n, seed)])  # first the prompts as they are
    kl, value = (weights @ point[name] for name in ("kl", of))
    nats, values = (weights @ np.stack([f[name] for f in curve.values()], axis=1) for name in ("kl", of))
    difference = value - [np.interp(k, x, y) for k, x, y in zip(kl, nats, values, strict=True)]
    ci95 = np.quantile(difference[1:], [0.025, 0.975]).tolist()
    return {"mean": float(difference[0]), "ci95": ci95, "beyond": bool(kl[0] > nats[0, -1])}


def summary(figures: Figures, seed: int) -> dict[str, Any]:
    """A point of the frontier: means over the prompts, each with its 95% interval."""
    named = {"kl_mean": "kl", "score_mean": "score", "judge_positive": "judge", "length_mean": "length"}
    found: dict[str, Any] = {}
    for name, of in named.items():
        there = of in figures  # no judge may fit the data
        found[name] = float(figures[of].mean()) if there else None
        found[f"{of}_ci95"] = bootstrap_ci95(figures[of], seed) if there else None
    value = float(figures["distinct_2"][0])
    return found | {"distinct_2": value, "distinct_2_ci95": jackknife_ci95(value, figures["distinct_2_without"])}


def save(figures: Figures, path: Path) -> None:
    """Write to a file beside `path`, then rename it, so that a reader never finds half of it."""
    partial = path.with_name(path.name + ".partial")
    save_file(figures, partial)
    partial.replace(path)
    share_tensors(path.parent)


def _answers(measurement: Measurement, lm: Any, *draw: Any) -> Answers:
    return joined([measurement.answer(lm, *batch) for batch in measurement.batches(*draw)])


def _figures(answers: Answers, measurement: Measurement) -> Figures:
    """Of answers to all held-out prompts, in their order."""
    judge, prompts = measurement.judge[0], measurement.held_out[0]
    found = {"score": answers.scores, "length": np.array([len(ids) for ids in answers.tokens], dtype=float)}
    return found if judge is None else found | {"judge": (judge.positive(answers.texts, prompts) > 0.5).astype(float)}


def _sets(drawn: Figures, n: int) -> list[list[list[int]]]:
    """Best-of-n's responses to all N prompts, one set for each group of n draws: distinct_2 is a figure of a set."""
    rows, best = np.arange(len(drawn["ranking"])), []
    for start in range(0, drawn["ranking"].shape[1] - n + 1, n):
        winner = start + drawn["ranking"][:, start : start + n].argmax(1)
        tokens, lengths = drawn["tokens"][rows, winner], drawn["length"][rows, winner].astype(int)
        best.append([t[:k] for t, k in zip(tokens.tolist(), lengths.tolist(), strict=True)])
    return best


def _distinct(sets: list[list[list[int]]]) -> Figures:
    return {
        "distinct_2": np.array([np.mean([distinct(s, 2) for s in sets])]),
        "distinct_2_without": np.mean([distinct_without(s, 2) for s in sets], axis=0),
    }
