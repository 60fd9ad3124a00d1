"""Held-out accuracy of the reward model by number of training texts: the learning curve of the default task.

    python recipes/reward_curve.py runs/first --out build/reward-curve    # takes some minutes

Every reward model starts from the run's SFT model and uses the run's settings; only the number of training texts
differs. A text stays in its split when a data set grows or shrinks, so all accuracies are on the same held-out texts.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
from pathlib import Path

from plaudit.algorithms.reward_model import reward_model
from plaudit.config import build, read_toml
from plaudit.data.embedded import rotten_tomatoes
from plaudit.data.splits import TRAIN_SHARE, key, share
from plaudit.training.run import Run

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def measured(run: Path, part: float, out: Path) -> dict[str, object]:
    """The summary of a reward model trained on the share `part` of the training texts, in the run directory `out`."""
    shutil.copytree(run / "sft", out / "sft", ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True)
    with (out / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "label"))
        for text in rotten_tomatoes():
            place = share(key(text))
            if place >= TRAIN_SHARE or place < part * TRAIN_SHARE:
                rows.writerow((text.text, text.label))
    config = dataclasses.replace(build(read_toml(run / "config.toml")), data=str(out / "reviews.csv"))
    of_part = Run(out, config)
    if not of_part.complete("reward_model"):
        for _ in reward_model(config, of_part):  # continues from its checkpoint if it was stopped
            pass
    return of_part.summary("reward_model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with a finished SFT model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    args = parser.parse_args()
    print("| training texts | held-out accuracy | expected calibration error |\n|---|---|---|")
    for part in SHARES:
        said = measured(args.run, part, args.out / f"{part:g}")
        low, high = said["accuracy_ci95"]
        error = said["ece"]
        print(f"| {said['records']} | {said['accuracy']:.3f} [{low:.3f}, {high:.3f}] | {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
