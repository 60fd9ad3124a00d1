"""How near PPO comes to best-of-n on the very prompts that it was trained on, by how many prompts there are.

    python recipes/seen_prompts.py runs/first --out build/seen-prompts    # continues after a stop

Each policy starts from the run's SFT model and samples the same number of responses, to a few prompts often or to many
prompts seldom. It is then measured on those prompts and, beside them, on the held-out ones. Where a policy is level
with best-of-n on the prompts of its training and below it on others, the limit is what the model generalises.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

from safetensors.numpy import load_file

from plaudit.algorithms.ppo import ppo
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.points import Figures, above_best_of_n, best_of_n, draw, measured, save
from plaudit.training import prompts as training_prompts
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run

SETS = {"1 (first)": [0], "1 (second)": [1], "16": list(range(16))}
ROWS = 128  # responses by which a policy is measured: each prompt as often as this number allows
DRAWS = 64  # responses of SFT to each row; best-of-n is measured for n up to it


def trained(run: Run, path: Path, kl_coef: float, some: list[list[int]]) -> Run:
    """PPO on these prompts alone, in a branch of the run at `path`."""
    settings = dataclasses.replace(run.config.ppo, kl_coef=kl_coef)
    branch = run.branch(path, dataclasses.replace(run.config, ppo=settings), ("sft", "reward_model"))
    if not branch.complete("ppo"):
        with mock.patch.object(training_prompts, "counted_prompts", return_value=(some, {})):
            for _ in ppo(branch):
                pass
    return branch


def measure(branch: Run, name: str, rows: list[list[int]], curve: Path) -> tuple[Figures, dict[int, Figures]]:
    """Figures of a branch's policy on these prompts, and of best-of-n on the same ones, kept at `curve`."""
    measurement = Measurement(branch, "ppo")
    measurement.__dict__["held_out"] = ([measurement.tokenizer.text(ids) for ids in rows], rows)
    if not curve.exists():
        for _ in draw(measurement, DRAWS, ScoreScale(**branch.summary("ppo")["scale"]), curve):
            pass
    found = branch.path / f"{name}.safetensors"
    if not found.exists():
        save(measured(measurement, measurement.policy), found)
    return load_file(found), best_of_n(load_file(curve))


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
    parser.add_argument("--kl-coefs", type=float, nargs="+", default=[0.3, 0.6], help="strengths of the KL penalty")
    args = parser.parse_args()
    run = Run.existing(args.run)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Measurement(run, "ppo", policy="sft").tokenizer
    known = training_prompts.tokenised_prompts(run, tokenizer)
    print("| prompts | kl_coef | measured on | KL | score | above best-of-n |\n|---|---|---|---|---|---|")
    for name, which in (SETS | {str(len(known)): list(range(len(known)))}).items():
        some = [known[i] for i in which]
        rows = (some * (ROWS // len(some)))[:ROWS] if len(some) < ROWS else some[:ROWS]
        for kl_coef in args.kl_coefs:
            label = name.replace("(", "").replace(")", "").replace(" ", "-")
            branch = trained(run, args.out / f"{label}-{kl_coef:g}", kl_coef, some)
            found = measure(branch, "seen", rows, args.out / f"best-of-n-{label}.safetensors")
            print(f"| {name} | {kl_coef:g} | its own | {cells(*found, run.config.seed)} |", flush=True)
            others = Measurement(branch, "ppo").held_out[1]
            found = measure(branch, "held-out", others, args.out / "best-of-n-held-out.safetensors")
            print(f"| {name} | {kl_coef:g} | held-out | {cells(*found, run.config.seed)} |", flush=True)


if __name__ == "__main__":
    main()
