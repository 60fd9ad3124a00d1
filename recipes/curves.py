"""Draw score and KL over the iterations of a policy in several runs, as a small picture.

    python recipes/curves.py PICTURE RUN RUN ... --stage ppo

The picture in docs/results.md has three seeds of the preset smollm2-sst2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from plaudit.config import read_toml
from plaudit.training.metrics import read_jsonl

PANELS = {"score": "mean score", "kl": "KL, nats a response"}
COLOURS = 32  # of the palette: the file is small


def draw(picture: Path, runs: list[Path], stage: str) -> None:
    """Write the picture of these runs."""
    figure, all_axes = plt.subplots(1, len(PANELS), figsize=(9, 3), layout="constrained")
    for run in runs:
        seed, rows = read_toml(run / "config.toml")["seed"], read_jsonl(run / stage / "metrics.jsonl")
        for axes, (key, title) in zip(all_axes, PANELS.items(), strict=True):
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], linewidth=1.2, label=f"seed {seed}")
            axes.set(title=title, xlabel="iteration")
            axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].legend(frameon=False)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--stage", default="ppo")
    given = parser.parse_args()
    draw(given.picture, given.runs, given.stage)
