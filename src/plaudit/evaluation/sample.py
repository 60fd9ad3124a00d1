"""Several continuations of one prompt, by SFT and by the policy, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plaudit import rng
from plaudit.evaluation.evaluate import Measurement, policy_stage, side_by_side
from plaudit.models.loading import window
from plaudit.rewards import TextReward
from plaudit.training.rollouts import check_window
from plaudit.training.run import Run


def sample(
    directory: Path,
    prompt: str,
    n: int,
    seed: int,
    max_new_tokens: int | None = None,
    reward: TextReward | None = None,
) -> list[dict[str, Any]]:
    """`n` continuations of `prompt` by each model of a run, from the same random numbers, as samples.jsonl has them.

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
    return side_by_side([prompt] * n, *measurement.compare([ids] * n, noise))
