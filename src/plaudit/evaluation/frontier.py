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
from collections.abc import Iterator
from pathlib import Path

from safetensors.numpy import load_file

from plaudit.config import build, read_saved, to_toml
from plaudit.errors import RunError
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.metrics import strict
from plaudit.evaluation.points import (
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
from plaudit.evaluation.report.words import judge_sentence, no_judge_sentence, on_or_above
from plaudit.files import write_atomic, write_json
from plaudit.rewards import REWARD_MODEL, AnyReward, described
from plaudit.training.metrics import StepReport
from plaudit.training.rewards import needs_reward_model, run_sources
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run
from plaudit.training.versions import versions

TIMES = (1, 2, 4)  # multiples of the run's kl_coef; the larger ones keep PPO at a KL that best-of-n reaches
_POINTS = 8  # policies measured during one training
_SHOWN = ("score", "kl", "response_length", "eos_rate")


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
        yield from draw(measurement, draws, ScoreScale(**run.summary("ppo")["scale"]), drawn)
    own = folder / "policy.safetensors"
    if not own.exists():
        save(measured(measurement, measurement.policy), own)
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
        points.append({"kl_coef": kl_coef, "iteration": iteration, **summary(found, config.seed)})
        for of in ("score", "judge"):
            above = above_best_of_n(found, curve, of, config.seed) if of in found else None
            points[-1][f"{of}_above_best_of_n"] = above
    content = {
        "best_of_n": shown_best_of_n(curve, config.seed),
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


def _train(measurement: Measurement, kl_coef: float, path: Path, reward: AnyReward) -> Iterator[StepReport]:
    """PPO with this coefficient, and everything else as in the run; its policies are measured during training."""
    run, settings = measurement.run, measurement.settings
    every = max(1, settings.iterations // _POINTS)
    settings = dataclasses.replace(settings, kl_coef=kl_coef, kl_control="fixed", save_every=every)
    stages = ("sft", "reward_model") if needs_reward_model(run, reward) else ("sft",)
    sub = run.branch(path, dataclasses.replace(run.config, ppo=settings), stages)
    for report in train_and_measure(measurement, sub, "ppo", path.name, reward):
        yield dataclasses.replace(report, metrics={name: report.metrics[name] for name in _SHOWN})
