"""REINFORCE with a leave-one-out baseline and a KL penalty against the SFT model. There is no critic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Rollout, number_of_rows
from plaudit.maths.advantages import leave_one_out
from plaudit.maths.kl import measured_kl_coef
from plaudit.maths.losses import Loss
from plaudit.maths.masked import masked_sum
from plaudit.rewards import AnyReward
from plaudit.settings import OneStepConfig
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.rewards import needs_reward_model
from plaudit.training.rollouts import Objective, RolloutLoop
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(OneStepConfig):
    """REINFORCE: raise the score by the plain policy gradient, with a KL penalty against the SFT model."""


@dataclass(frozen=True)
class ReinforceBatch:
    """A rollout with the advantage (B,) of each whole response."""

    rollout: Rollout
    advantages: Float[Tensor, "B"]


def reinforce(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy to raise its score, one report an iteration; leaves RUN/reinforce.

    Args:
        reward: as in `ppo`.
        models: if they are open already.

    Raises:
        PlauditError: as in `ppo`.
    """
    models = models or Models.load(run, "reinforce", reward_model=needs_reward_model(run, reward))
    loop = RolloutLoop(run, "reinforce", models, reward)

    for iteration in loop:
        batch, stats = loop.update(iteration, OBJECTIVE)
        rollout, n = batch.rollout, len(batch.advantages)
        learned = batch.advantages * ((n - 1) / n)  # the reward less its mean
        kl = (rollout.logprobs - rollout.ref_logprobs).sum(1)
        if run.config.reinforce.kl_in == "reward":
            stats |= measured_kl_coef(rollout.scores - learned, kl)
        yield loop.finish_iteration(iteration, batch, stats)

    loop.finish()


def reinforce_advantages(rollout: Rollout, kl_coef: float) -> Float[Tensor, "B"]:
    """(B,) reward of each response, KL penalty included, minus the mean reward of all other responses."""
    rewards = rollout.scores - kl_coef * rollout.penalised_kl.sum(1)
    return leave_one_out(rewards, len(rewards))


def reinforce_loss(policy: Any, batch: ReinforceBatch, temperature: float) -> tuple[Loss, dict[str, Tensor]]:
    """-advantage times the log-probability of the whole response: (sum over responses, their number)."""
    responses = batch.rollout.responses
    mask = responses.response_mask
    logprobs, _ = policy(responses.ids, responses.attention_mask, mask, temperature)
    loss = -masked_sum(batch.advantages[:, None] * logprobs, mask)
    return (loss, mask.any(1).sum()), {"policy_loss": loss.detach()}


def reinforce_batch(rollout: Rollout, kl_coef: float) -> ReinforceBatch:
    """What REINFORCE learns from a rollout."""
    return ReinforceBatch(rollout, reinforce_advantages(rollout, kl_coef))


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: ReinforceBatch(
        rollout, reinforce_advantages(rollout, kl_coef)
    ),
    loss=lambda policy, batch, settings: reinforce_loss(policy, batch, settings.temperature),
    count=lambda batch, settings: number_of_rows(batch),
)
