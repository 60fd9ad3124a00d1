"""Every loss of the three stages. Means are over tokens or records of the whole batch given."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.maths.masked import masked_mean, masked_sum


def causal_lm_loss(logprobs: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean negative log likelihood of N tokens, in nats a token.

    Every token weighs the same, whatever the length of its text.
    """
    return -logprobs.mean()


def bradley_terry_loss(
    chosen: Float[Tensor, "B"], rejected: Float[Tensor, "B"], weight: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the preference `weight` against sigmoid(chosen - rejected), in nats.

    Args:
        weight: share of votes for `chosen`: 1 for a clear preference, 1/2 for a tie.

    Source: Bradley and Terry 1952; Stiennon et al. 2020, section 3.4.
    """
    return F.binary_cross_entropy_with_logits(chosen - rejected, weight)


def label_loss(scores: Float[Tensor, "B"], labels: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of logits `scores` against labels in [0, 1], in nats."""
    return F.binary_cross_entropy_with_logits(scores, labels)


def policy_loss(
    logprobs: Float[Tensor, "B R"],
    old_logprobs: Float[Tensor, "B R"],
    advantages: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    clip_range: float,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """PPO's clipped surrogate loss, with statistics.

    Returns:
        loss: mean over response tokens of max(-A rho, -A clip(rho, 1 - eps, 1 + eps)).
        stats: ratio_mean, ratio_max, clip_fraction, approx_kl (k3 of old against new, nats a token).

    Source: Schulman et al. 2017, equation 7.
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    with torch.no_grad():
        stats = {
            "ratio_mean": masked_mean(ratio, response_mask),
            "ratio_max": ratio.masked_fill(~response_mask, 0.0).max(),
            "clip_fraction": masked_mean(((ratio - 1).abs() > clip_range).float(), response_mask),
            "approx_kl": masked_mean(ratio - 1 - log_ratio, response_mask),
        }
    return masked_mean(losses, response_mask), stats


def value_loss(
    values: Float[Tensor, "B R"],
    old_values: Float[Tensor, "B R"],
    returns: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    value_clip: float,
) -> Float[Tensor, ""]:
    """0.5 mean max((V - R)^2, (V_clip - R)^2), with V_clip within `value_clip` of the rollout's value."""
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    losses = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_sum(losses, response_mask) / response_mask.sum()
