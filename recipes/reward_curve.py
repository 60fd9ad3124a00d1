"""Held-out accuracy of the reward model by number of training texts: the learning curve of the default task.

    python recipes/reward_curve.py runs/first --out build/reward-curve    # takes some minutes

Every reward model starts from the run's SFT model and uses the run's settings; only the number of training texts
differs. A text stays in its split when a data set grows or shrinks, so all accuracies are on the same held-out texts.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import Any

from plaudit.algorithms.reward_model import reward_model
from plaudit.data.embedded import rotten_tomatoes
from plaudit.data.hashed import key
from plaudit.data.options import Config
from plaudit.data.splits import TRAIN_SHARE, share
from plaudit.training.run import Run

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def measured(run: Run, fraction: float, out: Path) -> dict[str, Any]:
    """The summary of a reward model trained on `fraction` of the training texts, in the run directory `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_name(f"{out.name}.csv")
    with data.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "label"))
        for text in rotten_tomatoes():
            place = share(key(text))
            if place >= TRAIN_SHARE or place < fraction * TRAIN_SHARE:
                rows.writerow((text.text, text.label))
    branch = run.branch(out, dataclasses.replace(run.config, data=Config(str(data))), ("sft",))
    if not branch.complete("reward_model"):
        for _ in reward_model(branch):  # continues from its checkpoint after a stop
            pass
    return branch.summary("reward_model")


def main() -> None:
    """Train the reward models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with a finished SFT model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reward models")
    args = parser.parse_args()
    run = Run.existing(args.run)
    print("| training texts | held-out accuracy | expected calibration error |\n|---|---|---|")
    for fraction in FRACTIONS:
        summary = measured(run, fraction, args.out / f"{fraction:g}")
        low, high = summary["accuracy_ci95"]
        accuracy = f"{summary['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {summary['records']} | {accuracy} | {summary['ece']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
