"""REINFORCE with a leave-one-out baseline and a KL penalty against the SFT model. There is no critic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Rollout, number_of_rows
from plaudit.maths.kl import measured_kl_coef
from plaudit.maths.losses import Loss
from plaudit.maths.masked import masked_sum
from plaudit.rewards import AnyReward
from plaudit.settings import RolloutConfig, setting
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.rewards import needs_reward_model
from plaudit.training.rollouts import Objective, RolloutLoop
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(RolloutConfig):
    """REINFORCE: raise the score by the plain policy gradient, with a KL penalty against the SFT model."""

    epochs: int = setting(1, "passes over the responses; more than 1 makes the gradient biased", low=1)
    minibatch_size: int = setting(
        128, "responses in one optimizer step; less than batch_size makes the gradient biased", unit="responses", low=1
    )
    iterations: int = setting(
        72, "rounds of sampling responses and updating the policy; raise it to train longer", unit="iterations", low=1
    )
    lr: float = setting(1e-3, "peak learning rate of Adam; lower it if KL jumps", low=0, high=1)


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
        stats["kl_coef_measured"] = measured_kl_coef(rollout.scores - learned, kl).item()
        yield loop.finish_iteration(iteration, batch, stats)

    loop.finish()


def leave_one_out(rollout: Rollout, kl_coef: float) -> Float[Tensor, "B"]:
    """(B,) reward of each response, KL penalty included, minus the mean reward of all other responses."""
    kl = (rollout.logprobs - rollout.ref_logprobs).sum(1)
    rewards = rollout.scores - kl_coef * kl
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def reinforce_loss(policy: Any, batch: ReinforceBatch, temperature: float) -> tuple[Loss, dict[str, Tensor]]:
    """-advantage times the log-probability of the whole response: (sum over responses, their number)."""
    responses = batch.rollout.responses
    mask = responses.response_mask
    logprobs, _ = policy(responses.ids, responses.attention_mask, mask, temperature)
    loss = -masked_sum(batch.advantages[:, None] * logprobs, mask)
    return (loss, mask.any(1).sum()), {"policy_loss": loss.detach()}


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: ReinforceBatch(rollout, leave_one_out(rollout, kl_coef)),
    loss=lambda policy, batch, settings: reinforce_loss(policy, batch, settings.temperature),
    count=number_of_rows,
)
