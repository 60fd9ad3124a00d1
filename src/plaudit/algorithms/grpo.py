"""GRPO: the responses to one prompt are a group, and each learns from how it compares with the others. No critic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Rollout, number_of_rows
from plaudit.maths.advantages import group_advantages
from plaudit.maths.losses import Loss, policy_loss
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
    """Group relative policy optimisation: raise the score above that of other responses to the same prompt."""

    group_size: int = setting(8, "responses to each prompt; batch_size is a multiple of it", unit="responses", low=2)
    scale_by: str = setting(
        "std",
        "divide the advantages of a group by the standard deviation of its rewards, as published; none does not, so "
        "that a prompt counts by how much its responses differ",
        choices=("std", "none"),
    )
    normalise: str = setting(
        "token",
        "what a token's loss is divided by: token is the number of all tokens; sequence is the length of its response, "
        "as published, which favours long bad responses; constant is max_new_tokens",
        choices=("token", "sequence", "constant"),
    )
    clip_range: float = setting(
        0.2, "change of the ratio beyond which a token's gradient is 0; lower it for smaller updates", low=0, high=1
    )


@dataclass(frozen=True)
class GRPOBatch:
    """A rollout with the advantage of each token."""

    rollout: Rollout
    advantages: Float[Tensor, "B R"]  # that of its whole response, times the token's share of the loss


def grpo(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy to raise its score, one report an iteration; leaves RUN/grpo.

    Args:
        reward: as in `ppo`.
        models: if they are open already.

    Raises:
        PlauditError: as in `ppo`.

    Source: Shao et al. 2024; Liu et al. 2025 for `scale_by` and `normalise`.
    """
    models = models or Models.load(run, "grpo", reward_model=needs_reward_model(run, reward))
    loop = RolloutLoop(run, "grpo", models, reward)

    for iteration in loop:
        batch, stats = loop.update(iteration, OBJECTIVE)
        yield loop.finish_iteration(iteration, batch, stats)

    loop.finish()


def grpo_batch(rollout: Rollout, kl_coef: float, settings: Config) -> GRPOBatch:
    """What GRPO learns from a rollout whose rows are group after group."""
    rewards = rollout.scores - kl_coef * rollout.penalised_kl.sum(1)
    advantages = group_advantages(rewards, settings.group_size, scale=settings.scale_by == "std")
    mask = rollout.responses.response_mask
    return GRPOBatch(rollout, advantages[:, None] / token_divisor(rollout, settings) * mask)


def token_divisor(rollout: Rollout, settings: Config) -> Float[Tensor, "*B 1"]:
    """What a token's loss is divided by: (1,), or (B, 1) where it depends on the response."""
    lengths = rollout.responses.response_mask.sum(1, keepdim=True).float()
    constant = torch.ones(1, device=lengths.device)
    return {"token": constant, "sequence": lengths, "constant": settings.max_new_tokens * constant}[settings.normalise]


def grpo_loss(policy: Any, batch: GRPOBatch, settings: Config) -> tuple[Loss, dict[str, Tensor]]:
    """PPO's clipped loss, with one advantage for all tokens of a response."""
    responses = batch.rollout.responses
    mask = responses.response_mask
    logprobs, _ = policy(responses.ids, responses.attention_mask, mask, settings.temperature)
    (loss, tokens), stats = policy_loss(logprobs, batch.rollout.logprobs, batch.advantages, mask, settings.clip_range)
    count = torch.tensor(divisor(batch, settings), device=loss.device)
    of_tokens = {name: x if name.endswith("_max") else x * count / tokens for name, x in stats.items()}
    return (loss, count), of_tokens | {"policy_loss": loss.detach()}


def divisor(batch: GRPOBatch, settings: Config) -> int:
    """What the loss of a batch is divided by: its tokens, or its responses where each has its own divisor."""
    return int(batch.rollout.responses.response_mask.sum()) if settings.normalise == "token" else number_of_rows(batch)


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: grpo_batch(rollout, kl_coef, settings),
    loss=grpo_loss,
    count=divisor,
    token_divisor=lambda batch, settings: token_divisor(batch.rollout, settings),
)
