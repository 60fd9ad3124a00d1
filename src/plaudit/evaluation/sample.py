"""Several continuations of one prompt, by SFT and by the policy, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plaudit import rng
from plaudit.algorithms.ppo import check_window
from plaudit.evaluation.evaluate import Models
from plaudit.models.loading import window
from plaudit.training.run import Run


@dataclass(frozen=True)
class Sample:
    """The two models' responses to the same prompt, from the same random numbers; scores in [-1, 1]."""

    sft: str
    sft_score: float
    policy: str
    policy_score: float


def sample(directory: Path, prompt: str, n: int, seed: int, max_new_tokens: int | None = None) -> list[Sample]:
    """`n` continuations of `prompt` by each model of the run in `directory`.

    Raises:
        RunError: the run is not there, or not finished.
        ModelError: the prompt leaves no room for a response.
    """
    run = Run.existing(directory)
    models = Models(run)
    ids = models.tokenizer.prompt(prompt)
    cap = max_new_tokens or run.config.ppo.max_new_tokens
    check_window([ids], cap, window(models.sft))
    noise = rng.uniforms(range(n), cap, seed, "sample", 0, prompt)
    before, after = models.compare([ids] * n, noise)
    return [Sample(before.texts[i], float(before.scores[i]), after.texts[i], float(after.scores[i])) for i in range(n)]
