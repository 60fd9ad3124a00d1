"""RLOO: REINFORCE whose baseline is the mean reward of the other responses to the same prompt. No critic."""

from collections.abc import Iterator
from dataclasses import dataclass

from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_loss
from plaudit.batches import Rollout, number_of_rows
from plaudit.maths.advantages import leave_one_out
from plaudit.rewards import AnyReward
from plaudit.settings import OneStepConfig, setting
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.rewards import needs_reward_model
from plaudit.training.rollouts import Objective, RolloutLoop
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(OneStepConfig):
    """REINFORCE leave-one-out: raise the score above that of the other responses to the same prompt."""

    group_size: int = setting(4, "responses to each prompt; batch_size is a multiple of it", unit="responses", low=2)


def rloo(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy to raise its score, one report an iteration; leaves RUN/rloo.

    Args:
        reward: as in `ppo`.
        models: if they are open already.

    Raises:
        PlauditError: as in `ppo`.

    Source: Kool et al. 2019; Ahmadian et al. 2024.
    """
    models = models or Models.load(run, "rloo", reward_model=needs_reward_model(run, reward))
    loop = RolloutLoop(run, "rloo", models, reward)

    for iteration in loop:
        batch, stats = loop.update(iteration, OBJECTIVE)
        yield loop.finish_iteration(iteration, batch, stats)

    loop.finish()


def rloo_batch(rollout: Rollout, kl_coef: float, group_size: int) -> ReinforceBatch:
    """What RLOO learns from a rollout whose rows are group after group."""
    rewards = rollout.scores - kl_coef * rollout.penalised_kl.sum(1)
    return ReinforceBatch(rollout, leave_one_out(rewards, group_size))


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: rloo_batch(rollout, kl_coef, settings.group_size),
    loss=lambda policy, batch, settings: reinforce_loss(policy, batch, settings.temperature),
    count=lambda batch, settings: number_of_rows(batch),
)
