"""The losses of the algorithms. Each returns (sum, count): whoever takes the step divides by the global count.

So gradient accumulation, several processes and one batch follow one rule, and every token (or record) has the same
weight however the batch is split.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.maths.masked import masked_sum

Loss = tuple[Float[Tensor, ""], Int[Tensor, ""]]


def causal_lm_loss(logprobs: Float[Tensor, "B R"], response_mask: Bool[Tensor, "B R"]) -> Loss:
    """Negative log-likelihood of the response tokens: (sum in nats, number of tokens)."""
    return -masked_sum(logprobs, response_mask), response_mask.sum()


def bradley_terry_loss(
    chosen: Float[Tensor, "B"],
    rejected: Float[Tensor, "B"],
    weight: Float[Tensor, "B"],
    margin: Float[Tensor, "B"] | None = None,
) -> Loss:
    """Cross-entropy of the preference `weight` against sigmoid(chosen - rejected): (sum in nats, number of pairs).

    `weight` is the share of people who preferred `chosen`: 1 for a clear choice, 1/2 for a tie. With a `margin`, the
    loss is that of scores whose difference is smaller by it: -log sigmoid(chosen - rejected - margin) for weight 1.
    Source: Bradley and Terry 1952; Stiennon et al. 2020, section 3.4; for the margin Touvron et al. 2023 (Llama 2),
    equation 2.
    """
    gap = chosen - rejected
    if margin is None:
        return label_loss(gap, weight)
    # Two people who disagree ask for a margin in either direction.
    losses = -weight * F.logsigmoid(gap - margin) - (1 - weight) * F.logsigmoid(-gap - margin)
    return losses.sum(), torch.tensor(len(gap), device=gap.device)


def plackett_luce_loss(scores: Float[Tensor, "B K"], present: Bool[Tensor, "B K"]) -> Loss:
    """Negative log-likelihood of rankings, from the best text to the worst: (sum in nats, number of rankings).

    The probability of a ranking is that of drawing its texts in this order, without replacement, each with a
    probability proportional to exp(score). For two texts this is Bradley-Terry. Rows with fewer than K texts are False
    in `present` after the last. Source: Plackett 1975.
    """
    left = scores.masked_fill(~present, -torch.inf).flip(1).logcumsumexp(1).flip(1)  # log of the sum of those left
    return masked_sum(left - scores, present), present.any(1).sum()


def label_loss(logits: Float[Tensor, "B"], labels: Float[Tensor, "B"]) -> Loss:
    """Binary cross-entropy of logits against labels in [0, 1]: (sum in nats, number of records)."""
    total = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return total, torch.tensor(len(logits), device=logits.device)


def dpo_loss(
    margins: Float[Tensor, "B"], weight: Float[Tensor, "B"], beta: float, label_smoothing: float = 0.0
) -> Loss:
    """Direct preference optimisation: (sum in nats, number of pairs).

    Args:
        margins: log(pi / pi_ref) of the first response less that of the second, each summed over its tokens.
        weight: share of people who prefer the first.
        label_smoothing: share of the votes that are taken to be mistakes.

    Source: Rafailov et al. 2023, equation 7; for label_smoothing Mitchell 2023 (conservative DPO).
    """
    return label_loss(beta * margins, weight * (1 - label_smoothing) + (1 - weight) * label_smoothing)


def ipo_loss(margins: Float[Tensor, "B"], weight: Float[Tensor, "B"], beta: float) -> Loss:
    """Identity preference optimisation: (sum, number of pairs). Source: Azar et al. 2023, equation 17."""
    target = 1 / (2 * beta)
    losses = weight * (margins - target) ** 2 + (1 - weight) * (margins + target) ** 2
    return losses.sum(), torch.tensor(len(margins), device=margins.device)


def simpo_loss(margins: Float[Tensor, "B"], weight: Float[Tensor, "B"], beta: float, gamma: float) -> Loss:
    """SimPO, which has no reference: (sum in nats, number of pairs).

    Args:
        margins: mean log-probability of a token of the first response less that of the second.
        gamma: by how much beta times the margin should be larger.

    Source: Meng et al. 2024, equation 6.
    """
    gap = beta * margins
    losses = -weight * F.logsigmoid(gap - gamma) - (1 - weight) * F.logsigmoid(-gap - gamma)
    return losses.sum(), torch.tensor(len(margins), device=margins.device)


def kto_loss(
    log_ratios: Float[Tensor, "B"],
    mark: Float[Tensor, "B"],
    kl: Float[Tensor, "B"],
    beta: float,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> Loss:
    """Kahneman-Tversky optimisation: (sum, number of responses).

    Args:
        log_ratios: log(pi / pi_ref) of each response, summed over its tokens.
        mark: share of people who call it good.
        kl: what the log ratio is compared with, an estimate of the KL of policy from reference.
        good_weight, bad_weight: of the losses of good and bad responses.

    Source: Ethayarajh et al. 2024, equation 8.
    """
    gain = beta * (log_ratios - kl)
    losses = good_weight * mark * (1 - gain.sigmoid()) + bad_weight * (1 - mark) * (1 - (-gain).sigmoid())
    return losses.sum(), torch.tensor(len(log_ratios), device=log_ratios.device)


def policy_loss(
    logprobs: Float[Tensor, "B R"],
    old_logprobs: Float[Tensor, "B R"],
    advantages: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    clip_range: float,
) -> tuple[Loss, dict[str, Tensor]]:
    """PPO's clipped surrogate loss, and figures about the update.

    Returns:
        loss: (sum over response tokens of max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), number of tokens), with rho the
            probability ratio. Source: Schulman et al. 2017, equation 7.
        stats: sums over response tokens of `ratio_mean`, `clip_fraction` and `approx_kl` (k3 of the old policy against
            the new one, nats), to be divided by the number of tokens; and `ratio_max`, the largest ratio.
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    with torch.no_grad():
        stats = {
            "ratio_mean": masked_sum(ratio, response_mask),
            "ratio_max": ratio.masked_fill(~response_mask, 0.0).max(),
            "clip_fraction": masked_sum(((ratio - 1).abs() > clip_range).float(), response_mask),
            "approx_kl": masked_sum(ratio - 1 - log_ratio, response_mask),
        }
    return (masked_sum(losses, response_mask), response_mask.sum()), stats


def value_loss(
    values: Float[Tensor, "B R"],
    old_values: Float[Tensor, "B R"],
    returns: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    value_clip: float,
) -> Loss:
    """(sum over response tokens of 0.5 max((V - R)^2, (V_clip - R)^2), number of tokens).

    V_clip is V moved to within `value_clip` of the value at rollout time.
    """
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    losses = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_sum(losses, response_mask), response_mask.sum()
