"""`plaudit eval --reward`: a finished policy scored by a reward that it was not trained for."""

from pathlib import Path
from typing import Any


def without_other(
    directory: Path, settings: dict[str, Any], before: dict[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings with the reward of training, and the given reward where it is another; () where it is not.

    Args:
        before: the settings of the run.
    """
    reward = settings["reward"]
    if reward == before["reward"]:
        return settings, ()
    from plaudit.evaluation.evaluate import policy_stage
    from plaudit.rewards import described, sources_of
    from plaudit.training.run import Run

    run = Run.existing(directory)
    made = run.made_from(policy_stage(run)) or {}
    if described(sources_of(reward)) == made.get("reward", ""):
        return settings, ()
    return settings | {"reward": before["reward"]}, reward


def score_by(directory: Path, reward: tuple[str, ...]) -> dict[str, Any]:
    """Score SFT model and policy by `reward`; returns the entry in other_rewards.json as "other_reward".

    Without a reward it does nothing and returns {}.
    """
    if not reward:
        return {}
    from plaudit.cli import console, progress
    from plaudit.evaluation.other_rewards import evaluate_by
    from plaudit.rewards import REWARD_MODEL, described, sources_of
    from plaudit.training.manifest import OTHER_REWARDS
    from plaudit.training.run import Run

    progress.watch(evaluate_by(Run.existing(directory), reward), "evaluation")
    name = described(sources_of(reward)) or REWARD_MODEL
    return {"other_reward": console.read(directory / OTHER_REWARDS)[name]}
