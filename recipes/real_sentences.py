"""Score of the data set's own held-out sentences, beside those of the SFT model and the policy.

    python recipes/real_sentences.py runs/first    # takes some seconds

The score is that of evaluation.json: 2 sigmoid(logit) - 1 of the run's reward model, from -1 to 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from plaudit.lesson.predictions import reward_logits
from plaudit.models.loading import load_reward_model, load_tokenizer
from plaudit.training.run import Run


def scores(run: Run) -> dict[str, np.ndarray]:
    """Scores of the held-out positive and negative sentences."""
    tokenizer = load_tokenizer(run.model("sft"))
    model = load_reward_model(run.model("reward_model"), tokenizer.pad_id)
    found = {}
    for label, name in ((1, "real positive sentences"), (0, "real negative sentences")):
        texts = [record.text for record in run.data.evaluation.labelled if record.label == label]
        found[name] = np.tanh(np.asarray(reward_logits(model, tokenizer, texts)) / 2)  # 2 sigmoid(x) - 1
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run directory with labelled texts")
    run = Run.existing(parser.parse_args().run)
    evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    print("| | score | number |\n|---|---|---|")
    for name, found in scores(run).items():
        error = 1.96 * found.std(ddof=1) / len(found) ** 0.5
        print(
            f"| {name} | {found.mean():.2f} [{found.mean() - error:.2f}, {found.mean() + error:.2f}] | {len(found):,} |"
        )
    for name in ("sft", "policy"):
        low, high = evaluation[name]["score_ci95"]
        print(f"| {name} | {evaluation[name]['score_mean']:.2f} [{low:.2f}, {high:.2f}] | |")


if __name__ == "__main__":
    main()
