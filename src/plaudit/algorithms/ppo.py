"""Proximal policy optimisation with a KL penalty against the SFT model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Responses, Rollout
from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.kl import measured_kl_coef
from plaudit.maths.logprobs import predicting
from plaudit.maths.losses import Loss, policy_loss, value_loss
from plaudit.maths.masked import explained_variance, float64, masked_correlation, unflatten, whiten
from plaudit.models.policy import Policy, fit_value_head, ridge_regression
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
    """Proximal policy optimisation: raise the score, with a KL penalty against the SFT model."""

    gamma: float = setting(1.0, "discount of later rewards; 1 is none", low=0, high=1)
    lam: float = setting(0.95, "lambda of GAE: 0 has the least variance, 1 the least bias", low=0, high=1)
    clip_range: float = setting(
        0.2, "change of the ratio beyond which a token's gradient is 0; lower it for smaller updates", low=0, high=1
    )
    value_clip: float = setting(
        0.2, "change of a value since the rollout beyond which its gradient is 0; raise it if values lag", low=0
    )
    value_coef: float = setting(0.1, "weight of the value loss in the total loss", low=0)
    kl_stop: float = setting(
        0.1,
        "end an iteration's update early when approximate KL exceeds this; lower it for smaller updates",
        unit="nats/token",
        low=0,
    )


@dataclass(frozen=True)
class PPOBatch:
    """A rollout with what PPO computes from it."""

    rollout: Rollout
    values: Float[Tensor, "B R"]  # of the value head before each response token, when the responses were sampled
    rewards: Float[Tensor, "B R"]  # KL penalty and score
    advantages: Float[Tensor, "B R"]  # whitened over the response tokens of the whole rollout
    returns: Float[Tensor, "B R"]  # targets of the value head, from advantages before whitening


def ppo(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy to raise its score, one report an iteration; leaves RUN/ppo.

    Args:
        reward: a function from prompts and responses to a number for each, or parts with weights as in `sources_of`;
            None for the reward in the run's settings, which is the run's reward model by default.
        models: with a value head, if they are open already.

    Raises:
        ModelError: a prompt and its response do not fit into the model's window.
        RewardError: `reward` does not return one finite number for each response.
        TrainingError: a loss or gradient is not finite.
    """
    settings = run.config.ppo
    models = models or Models.load(run, "ppo", value_head=True, reward_model=needs_reward_model(run, reward))
    policy = models.policy
    loop = RolloutLoop(run, "ppo", models, reward)
    if loop.initial is not None:
        fit_critic(policy, *loop.initial, settings.gamma)

    for iteration in loop:
        batch, stats = loop.update(iteration, OBJECTIVE, stop=("approx_kl", settings.kl_stop))
        mask = iteration.rollout.responses.response_mask
        rollout, kl = batch.rollout, (batch.rollout.logprobs - batch.rollout.ref_logprobs).sum(1)
        if settings.kl_in == "reward":
            stats |= measured_kl_coef(rollout.scores - batch.rewards.sum(1), kl)
        stats["reward"] = batch.rewards.sum(1).mean().item()
        stats |= critic_figures(batch, iteration.states, settings.gamma)
        stats["explained_variance"] = explained_variance(batch.values, batch.returns, mask).item()
        yield loop.finish_iteration(iteration, batch, stats)

    loop.finish()


@torch.no_grad()
def fit_critic(policy: Policy, responses: Responses, scores: Float[Tensor, "B"], gamma: float) -> None:
    """Fit the value head to the discounted scores of the reference's responses, before the policy is trained.

    There is no KL yet, so the return of a token is its response's score times gamma for every token that follows.
    """
    mask = responses.response_mask
    following = mask.sum(1, keepdim=True) - mask.cumsum(1)  # tokens after each token
    returns = scores[:, None] * gamma ** following.clamp(min=0)
    wanted = predicting(mask, responses.ids.shape[1])
    states = policy.engine.hidden_states(policy.lm, responses.ids, responses.attention_mask, wanted)
    fit_value_head(policy, states, returns[mask])


@torch.no_grad()
def critic_figures(batch: PPOBatch, states: Float[Tensor, "N D"], gamma: float) -> dict[str, float]:
    """How the values correlate with the rewards that followed, and how those of a new linear fit would.

    The fit learns from every other response and is measured on the rest. Where it is clearly better than the critic,
    the critic is broken; where it is as bad, the rewards cannot be foreseen.
    """
    mask = batch.rollout.responses.response_mask
    _, followed = gae(batch.rewards, torch.zeros_like(batch.values), mask, gamma, 1.0)
    learned = torch.zeros_like(mask)
    learned[::2] = mask[::2]
    weight, bias = ridge_regression(states[learned[mask]], followed[learned])
    fitted = unflatten((float64(states) @ weight + bias).to(followed.dtype), mask)
    return {
        "value_correlation": masked_correlation(batch.values, followed, mask).item(),
        "fit_correlation": masked_correlation(fitted, followed, mask & ~learned).item(),
    }


@torch.no_grad()
def rollout_values(policy: Any, states: Float[Tensor, "N D"], rollout: Rollout) -> Float[Tensor, "B R"]:
    """The value before each response token; zero outside the response."""
    return unflatten(policy.value_head(states).squeeze(-1), rollout.responses.response_mask)


def compute_advantages(
    rollout: Rollout, values: Float[Tensor, "B R"], kl_coef: float, gamma: float, lam: float
) -> PPOBatch:
    """Rewards, advantages and returns. Returns come from raw advantages; only then are these whitened."""
    mask = rollout.responses.response_mask
    rewards = token_rewards(rollout.scores, rollout.penalised_kl, mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return PPOBatch(rollout, values, rewards, whiten(advantages, mask), returns)


def ppo_loss(policy: Any, batch: PPOBatch, settings: Config) -> tuple[Loss, dict[str, Tensor]]:
    """Clipped policy loss plus weighted value loss of a minibatch, and figures about both."""
    responses = batch.rollout.responses
    mask = responses.response_mask
    logprobs, values = policy(responses.ids, responses.attention_mask, mask, settings.temperature)
    (pg_loss, count), stats = policy_loss(logprobs, batch.rollout.logprobs, batch.advantages, mask, settings.clip_range)
    v_loss, _ = value_loss(values, batch.values, batch.returns, mask, settings.value_clip)
    stats |= {"policy_loss": pg_loss.detach(), "value_loss": v_loss.detach()}
    return (pg_loss + settings.value_coef * v_loss, count), stats


def number_of_tokens(batch: PPOBatch) -> int:
    """Response tokens of a batch, by which its loss is divided."""
    return int(batch.rollout.responses.response_mask.sum())


def ppo_batch(
    policy: Any, rollout: Rollout, states: Float[Tensor, "N D"], kl_coef: float, settings: Config
) -> PPOBatch:
    """What PPO learns from a rollout; `states` predict its tokens."""
    return compute_advantages(rollout, rollout_values(policy, states, rollout), kl_coef, settings.gamma, settings.lam)


OBJECTIVE = Objective(ppo_batch, ppo_loss, lambda batch, settings: number_of_tokens(batch), value_head=True)
