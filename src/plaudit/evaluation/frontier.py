"""The frontier: score and judge against KL, for best-of-n, which trains nothing, and for PPO.

    RUN/frontier/
      config.toml                  the settings that everything below was made with
      best-of-n-32.safetensors     figures of 32 responses of SFT to each held-out prompt
      policy.safetensors           figures of the run's own policy
      kl_coef-0.4/                 a run directory: PPO at another coefficient, from the same SFT and reward model
      kl_coef-0.4/points/          figures of its policies during training
    RUN/frontier.json              the figures, drawn in report.html

A part that exists is used as it is, so an interrupted frontier continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from plaudit.algorithms.ppo import ppo
from plaudit.config import build, read_saved, to_toml
from plaudit.data.text import distinct
from plaudit.errors import RunError
from plaudit.evaluation.answers import Answers, joined
from plaudit.evaluation.best_of_n import kept, kl_bound, kl_measured
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.metrics import bootstrap_ci95, distinct_without, jackknife_ci95, resamples, strict
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.words import judge_sentence, no_judge_sentence, on_or_above
from plaudit.files import write_atomic, write_json
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.loading import load_causal_lm
from plaudit.models.lora import add_adapters, merge
from plaudit.models.policy import Policy
from plaudit.rewards import REWARD_MODEL, AnyReward, described
from plaudit.training.checkpoint import load_weights, saved_weights
from plaudit.training.metrics import StepReport
from plaudit.training.rewards import needs_reward_model, run_sources
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run
from plaudit.training.versions import versions

TIMES = (1, 2, 4)  # multiples of the run's kl_coef; the larger ones keep PPO at a KL that best-of-n reaches
_POINTS = 8  # policies measured during one training
_SHOWN = ("score", "kl", "response_length", "eos_rate")

Figures = dict[str, np.ndarray]  # score, judge, kl, length: (N,) one a prompt; distinct_2 (1,), distinct_2_without (N,)


def frontier(
    run: Run,
    kl_coefs: list[float] | None,
    draws: int,
    *,
    overwrite: bool = False,
    reward: AnyReward = None,
) -> Iterator[StepReport]:
    """Measure best-of-n and PPO at several strengths of the KL penalty; writes RUN/frontier.json, updates the report.

    Args:
        kl_coefs: to train PPO with, in addition to those trained before; None for the run's own and multiples of it.
        draws: m, responses of SFT to each prompt; best-of-n is measured for n up to m.
        reward: as in `ppo`.

    Raises:
        RunError: the run is not finished, or its frontier was begun with other settings.
    """
    config, folder = run.config, run.path / "frontier"
    trained_for, given = run.summary("ppo")["reward"], described(run_sources(run, reward)) or REWARD_MODEL
    if trained_for != given:
        raise RunError(f"{run.path}: its ppo was trained for the reward '{trained_for}', not for '{given}'")
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "config.toml").exists() and build(read_saved(folder / "config.toml")) != config:
        raise RunError(f"{folder}: was begun with other settings of the run; use --overwrite to start again")
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "config.toml", to_toml(config, versions()))
    if kl_coefs is None:
        kl_coefs = [times * config.ppo.kl_coef for times in TIMES]

    measurement = Measurement(run, "ppo", reward)
    drawn = folder / f"best-of-n-{draws}.safetensors"
    if not drawn.exists():
        yield from _draw(measurement, draws, drawn)
    own = folder / "policy.safetensors"
    if not own.exists():
        _save(_measured(measurement, measurement.policy), own)
    for kl_coef in dict.fromkeys(float(f"{k:g}") for k in kl_coefs):
        yield from _train(measurement, kl_coef, folder / f"kl_coef-{kl_coef:g}", reward)

    judge, reason = measurement.judge
    no_judge = no_judge_sentence(reason)
    curve = best_of_n(load_file(drawn))
    places = [(config.ppo.kl_coef, config.ppo.iterations, own)]
    for path in folder.glob("kl_coef-*/points/*.safetensors"):
        places.append((float(path.parts[-3].removeprefix("kl_coef-")), int(path.stem), path))
    points = []
    for kl_coef, iteration, path in sorted(places):
        found = load_file(path)
        points.append({"kl_coef": kl_coef, "iteration": iteration, **_summary(found, config.seed)})
        for of in ("score", "judge"):
            above = above_best_of_n(found, curve, of, config.seed) if of in found else None
            points[-1][f"{of}_above_best_of_n"] = above
    content = {
        "best_of_n": [
            {"n": n, "kl_bound": kl_bound(n), **_summary(f, config.seed)} for n, f in curve.items() if "distinct_2" in f
        ],
        "ppo": points,
        "meta": {"prompts": len(measurement.held_out[1]), "draws": draws, "seed": config.seed, "reward": given}
        | {"judge": judge and judge.meta},
        "findings": [
            on_or_above(points, "score", draws),
            *([no_judge] if no_judge else [on_or_above(points, "judge", draws), judge_sentence(judge and judge.meta)]),
        ],
    }
    write_json(run.path / "frontier.json", strict(content))
    write_report(run.path)


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


def _draw(measurement: Measurement, draws: int, path: Path) -> Iterator[StepReport]:
    """Sample `draws` responses of SFT to every prompt, and save their figures."""
    scale, drawn = ScoreScale(**measurement.run.summary("ppo")["scale"]), []
    for draw in range(draws):
        began = time.perf_counter()
        answers = _answers(measurement, measurement.sft, "frontier", draw, "best of n")
        tokens = np.zeros((len(answers.tokens), measurement.settings.max_new_tokens), dtype=np.int32)
        for row, ids in zip(tokens, answers.tokens, strict=True):
            row[: len(ids)] = ids
        raw, ended = torch.from_numpy(answers.raw_scores), torch.from_numpy(answers.ended)
        ranking = scale.scores(raw, ended).numpy()  # PPO scores a response that was cut off in the same way
        drawn.append({"ranking": ranking, "tokens": tokens, **_figures(answers, measurement)})
        took = time.perf_counter() - began
        timing = {"seconds": took, "tokens_per_second": drawn[-1]["length"].sum() / took}
        yield StepReport("best-of-n", draw + 1, draws, {"score": float(answers.scores.mean())}, timing)
    _save({name: np.stack([d[name] for d in drawn], axis=1) for name in drawn[0]}, path)


def _train(measurement: Measurement, kl_coef: float, path: Path, reward: AnyReward) -> Iterator[StepReport]:
    """PPO with this coefficient, and everything else as in the run; its policies are measured during training."""
    run, settings = measurement.run, measurement.settings
    every = max(1, settings.iterations // _POINTS)
    settings = dataclasses.replace(settings, kl_coef=kl_coef, kl_control="fixed", save_every=every)
    stages = ("sft", "reward_model") if needs_reward_model(run, reward) else ("sft",)
    sub = run.branch(path, dataclasses.replace(run.config, ppo=settings), stages)
    (path / "points").mkdir(exist_ok=True)
    _measure_checkpoints(measurement, sub)  # after a stop, the last checkpoint may not be measured yet
    if sub.complete("ppo"):
        return
    for report in ppo(sub, reward):
        _measure_checkpoints(measurement, sub)
        shown = {name: report.metrics[name] for name in _SHOWN}
        yield dataclasses.replace(report, stage=path.name, metrics=shown)
    shutil.rmtree(sub.folder("ppo") / "checkpoints")  # measured, and three times the size of the policy


def _measure_checkpoints(measurement: Measurement, sub: Run) -> None:
    models, settings = measurement.models, sub.config.ppo
    for step, weights in saved_weights(sub.folder("ppo") / "checkpoints").items():
        path = sub.path / "points" / f"{step:08d}.safetensors"
        if not path.exists():
            policy = Policy(load_causal_lm(measurement.run.model("sft")), models.engine)
            freeze_lower_layers(policy.lm, settings.train_layers)
            add_adapters(policy.lm, settings, sub.config.seed, "ppo")
            load_weights(weights, policy)
            merge(policy.lm)
            policy.to(sub.device).eval().requires_grad_(False)
            models.share(policy.lm)
            _save(_measured(measurement, policy.lm), path)


def _measured(measurement: Measurement, lm: Any) -> Figures:
    """The policy's answers to the held-out prompts, with the evaluation's random numbers."""
    answers = _answers(measurement, lm)
    return {"kl": answers.kl.astype(float), **_figures(answers, measurement), **_distinct([answers.tokens])}


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


def _summary(figures: Figures, seed: int) -> dict[str, Any]:
    """A point of the frontier: means over the prompts, each with its 95% interval."""
    named = {"kl_mean": "kl", "score_mean": "score", "judge_positive": "judge", "length_mean": "length"}
    summary: dict[str, Any] = {}
    for name, of in named.items():
        there = of in figures  # no judge may fit the data
        summary[name] = float(figures[of].mean()) if there else None
        summary[f"{of}_ci95"] = bootstrap_ci95(figures[of], seed) if there else None
    value = float(figures["distinct_2"][0])
    return summary | {"distinct_2": value, "distinct_2_ci95": jackknife_ci95(value, figures["distinct_2_without"])}


def _save(figures: Figures, path: Path) -> None:
    """Write to a file beside `path`, then rename it, so that a reader never finds half of it."""
    partial = path.with_name(path.name + ".partial")
    save_file(figures, partial)
    partial.replace(path)
