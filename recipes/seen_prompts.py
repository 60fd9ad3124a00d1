"""How near a policy comes to best-of-n on the very prompts that it was trained on, by how many prompts there are.

    python recipes/seen_prompts.py runs/first --out build/seen-prompts    # continues after a stop
    python recipes/seen_prompts.py runs/first --out build/taught --set best_of_n.group_size=4

Each policy starts from the run's SFT model and samples the same number of responses, to a few prompts often or to many
prompts seldom. It is then measured on those prompts and, beside them, on the held-out ones. Where a policy is level
with best-of-n on the prompts of its training and below it on others, the limit is what the model generalises. With
settings of `best_of_n`, the policy imitates the choices of best-of-n itself. How much of them it has learned is then
measured on fresh choices: "learned" is by how many nats they are more likely under the policy than under the SFT model,
of the nats by which best-of-n differs from it. That is a figure of the model alone, without what sampling costs.
"""

from __future__ import annotations

import argparse
import math
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import load_file

from plaudit.config import build, flatten, read_saved
from plaudit.evaluation.best_of_n import kept, kl_measured
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.points import Figures, above_best_of_n, best_of_n, draw, measured, save
from plaudit.evaluation.sweep import grid, stages_of
from plaudit.models.policy import Policy
from plaudit.training import prompts as training_prompts
from plaudit.training.offline import nats_of
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run

SETS = {"first": [0], "second": [1], "16": list(range(16))}  # of training prompts, by name; and all
ROWS = 128  # responses by which a policy is measured: each prompt as often as this number allows


def trained(run: Run, path: Path, stage: str, settings: dict[str, Any], some: list[list[int]]) -> Run:
    """A policy that learns from these prompts alone, in a branch of the run at `path`."""
    config = build(flatten(read_saved(run.path / "config.toml")), settings)
    branch = run.branch(path, config, ("sft", "reward_model"))
    if not branch.complete(stage):
        algorithm = getattr(import_module(f"plaudit.algorithms.{stage}"), stage)
        with mock.patch.object(training_prompts, "counted_prompts", return_value=(some, {})):
            for _ in algorithm(branch):
                pass
    return branch


def measure(
    branch: Run, stage: str, name: str, rows: list[list[int]], curve: Path, draws: int
) -> tuple[Figures, dict[int, Figures]]:
    """Figures of a branch's policy on these prompts, and of best-of-n on the same ones, kept at `curve`."""
    measurement = Measurement(branch, stage)
    measurement.__dict__["held_out"] = ([measurement.tokenizer.text(ids) for ids in rows], rows)
    if not curve.exists():
        for _ in draw(measurement, draws, ScoreScale(**branch.summary(stage)["scale"]), curve):
            pass
    found = branch.path / f"{name}.safetensors"
    if not found.exists():
        save(measured(measurement, measurement.policy), found)
    return load_file(found), best_of_n(load_file(curve))


def learned(branch: Run, rows: list[list[int]], curve: Path, n: int) -> str:
    """Mean log-ratio of policy and SFT model on fresh choices of best-of-n, with its standard error, of the largest."""
    drawn, measurement = load_file(curve), Measurement(branch, "best_of_n")
    (prompts, draws), lengths = drawn["ranking"].shape, drawn["length"].astype(int)
    texts = [(rows[i], drawn["tokens"][i, k, : lengths[i, k]].tolist()) for i in range(prompts) for k in range(draws)]
    policy, sft = (
        np.array(nats_of(Policy(lm, measurement.models.engine, value_head=False), texts, measurement.tokenizer.pad_id,
                         branch.device, measurement.settings.temperature)).reshape(prompts, draws)
        for lm in (measurement.policy, measurement.sft)
    )  # fmt: skip
    found = (kept(drawn["ranking"], n) * (policy - sft)).sum(1)
    error = found.std(ddof=1) / math.sqrt(prompts)
    return f"{found.mean():.3f} +- {error:.3f} of {kl_measured(drawn['ranking'], n).mean():.3f}"


def cells(policy: Figures, curve: dict[int, Figures], seed: int) -> str:
    """KL, score, and how far the score lies above best-of-n at this KL, with its 95% interval."""
    above: dict[str, Any] = above_best_of_n(policy, curve, "score", seed)
    low, high = above["ci95"]
    difference = f"{above['mean']:+.3f} [{low:+.3f}, {high:+.3f}]{' (beyond)' * above['beyond']}"
    return f"{policy['kl'].mean():.2f} | {policy['score'].mean():.3f} | {difference}"


def main() -> None:
    """Train and measure every policy, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with a finished SFT and reward model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the policies")
    parser.add_argument("--prompts", nargs="+", metavar="SET", help=f"{', '.join(SETS)} or all; default: each of them")
    parser.add_argument(
        "--set", action="append", metavar="NAME=X,X,...", help="settings of one algorithm; default: ppo.kl_coef=0.3"
    )
    help_draws = "responses of SFT to each of the rows; best-of-n is measured for n up to it (%(default)s)"
    parser.add_argument("--draws", type=int, default=64, metavar="M", help=help_draws)
    args = parser.parse_args()
    run, points = Run.existing(args.run), grid(args.set or ["ppo.kl_coef=0.3"])
    stage = stages_of(points)[2]
    args.out.mkdir(parents=True, exist_ok=True)
    known = training_prompts.tokenised_prompts(run, Measurement(run, stage, policy="sft").tokenizer)
    sets = SETS | {"all": list(range(len(known)))}
    if unknown := {*(args.prompts or sets)} - {*sets}:
        parser.error(f"--prompts {min(unknown)}: not one of {', '.join(sets)}")
    print("| prompts | settings | measured on | KL | score | above best-of-n | learned |\n" + "|---" * 7 + "|")
    for name in args.prompts or sets:
        some = [known[i] for i in sets[name]]
        own = (some * (ROWS // len(some)))[:ROWS] if len(some) < ROWS else some[:ROWS]
        for point, settings in points.items():
            branch = trained(run, args.out / f"{name}-{point}", stage, settings, some)
            for where, rows, curve in (
                ("its own", own, f"best-of-n-{name}.safetensors"),
                ("held-out", Measurement(branch, stage).held_out[1], "best-of-n-held-out.safetensors"),
            ):
                found = measure(branch, stage, where.replace(" ", "-"), rows, args.out / curve, args.draws)
                n = branch.config.best_of_n.group_size
                taught = learned(branch, rows, args.out / curve, n) if stage == "best_of_n" else ""
                row = [name, point, where, cells(*found, run.config.seed), taught]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
