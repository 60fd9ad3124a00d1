"""Per-token rewards from scores; advantages and returns from rewards."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_EQUAL = 1e-5  # standard deviation of rewards that differ by rounding alone, as a part of the largest


def token_rewards(
    scores: Float[Tensor, "B"],
    kl: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    kl_coef: float,
) -> Float[Tensor, "B R"]:
    """-kl_coef KL for each token, plus the score at the last one; 0 outside the response.

    `kl` is an estimate for each token, such as k1 = logprob - ref_logprob.

    Responses start at column 0, so the last token of a row is at its length minus one, with or without an end token.
    Source: Ziegler et al. 2019, equation 2.
    """
    rewards = (-kl_coef * kl).masked_fill(~response_mask, 0.0)
    last = response_mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None])


def group_advantages(rewards: Float[Tensor, "B"], group_size: int, *, scale: bool) -> Float[Tensor, "B"]:
    """Reward less the mean of its group; the rows of a group are neighbours.

    With `scale`, also divided by the standard deviation (n - 1) of the group. A group whose rewards are equal up to
    rounding teaches nothing: its advantages are 0, not rounding errors made large.

    Source: Shao et al. 2024, equation 4.
    """
    groups = rewards.double().view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale:
        deviation = groups.std(1, keepdim=True)
        largest = groups.abs().amax(1, keepdim=True).clamp(min=1.0)
        centred = torch.where(deviation > _EQUAL * largest, centred / deviation.clamp(min=1e-12), 0.0)
    return centred.flatten().to(rewards.dtype)


def leave_one_out(rewards: Float[Tensor, "B"], group_size: int) -> Float[Tensor, "B"]:
    """Reward less the mean reward of the others in its group; the rows of a group are neighbours.

    The baseline does not depend on the response itself, so the policy gradient is unbiased. Source: Kool et al. 2019.
    """
    groups = rewards.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


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
