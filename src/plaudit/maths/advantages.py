"""Per-token rewards from scores; advantages and returns from rewards."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_rewards(
    scores: Float[Tensor, "B"],
    logprobs: Float[Tensor, "B R"],
    ref_logprobs: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    kl_coef: float,
) -> Float[Tensor, "B R"]:
    """-kl_coef (logprob - ref_logprob) for each token, plus the score at the last one; 0 outside the response.

    Responses start at column 0, so the last token of a row is at its length minus one, with or without an end token.
    Source: Ziegler et al. 2019, equation 2.
    """
    rewards = (-kl_coef * (logprobs - ref_logprobs)).masked_fill(~response_mask, 0.0)
    last = response_mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None])


def gae(
    rewards: Float[Tensor, "B R"],
    values: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """Generalised advantage estimation.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}; V and A are zero after the last token.
    Source: Schulman et al. 2015, equation 16.

    Returns:
        advantages: not whitened; zero outside the response.
        returns: advantages + values, the targets of the value head; zero outside the response.
    """
    values = values.masked_fill(~response_mask, 0.0)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage).masked_fill(~response_mask[:, t], 0.0)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values
