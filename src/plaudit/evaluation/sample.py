"""Several continuations of one prompt, by SFT and by the policy, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plaudit import rng
from plaudit.evaluation.evaluate import Measurement, policy_stage
from plaudit.models.loading import window
from plaudit.rewards import TextReward
from plaudit.training.rollouts import check_window
from plaudit.training.run import Run


@dataclass(frozen=True)
class Sample:
    """Responses of the two models to the same prompt, from the same random numbers, with their scores."""

    sft: str
    sft_score: float
    policy: str
    policy_score: float


def sample(
    directory: Path,
    prompt: str,
    n: int,
    seed: int,
    max_new_tokens: int | None = None,
    reward: TextReward | None = None,
) -> list[Sample]:
    """`n` continuations of `prompt` by each model of the run in `directory`.

    Raises:
        RunError: the run does not exist or has not finished.
        ModelError: the prompt leaves no room for a response.
    """
    run = Run.existing(directory)
    measurement = Measurement(run, policy_stage(run), reward)
    ids = measurement.tokenizer.prompt(prompt)
    limit = max_new_tokens or measurement.settings.max_new_tokens
    check_window([ids], limit, window(measurement.sft))
    noise = rng.uniforms(range(n), limit, seed, "sample", 0, prompt)
    before, after = measurement.compare([ids] * n, noise)
    return [Sample(before.texts[i], float(before.scores[i]), after.texts[i], float(after.scores[i])) for i in range(n)]
