"""KL divergence of the policy from the reference: estimators from samples, and the exact sum over tokens.

All measure KL(policy || reference) on tokens drawn from the policy. Sources: J. Schulman, "Approximating KL
divergence" (2020) for k1 and k3; arXiv 2504.10637 for the Rao-Blackwellised sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kl_k1(logprobs: Float[Tensor, "B R"], ref_logprobs: Float[Tensor, "B R"]) -> Float[Tensor, "B R"]:
    """log p - log q of the sampled token: unbiased, of high variance, negative for some tokens."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Float[Tensor, "B R"], ref_logprobs: Float[Tensor, "B R"]) -> Float[Tensor, "B R"]:
    """(q/p - 1) - log(q/p) of the sampled token: unbiased and never negative."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl_full(logits: Float[Tensor, "*N V"], ref_logits: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Exact KL of the next-token distributions at each visited state, summed over the vocabulary.

    Summed over a response it is the Rao-Blackwellised estimate of the sequence KL: unbiased, and never of
    higher variance than k1.
    """
    return kl_of_logprobs(torch.log_softmax(logits.float(), -1), torch.log_softmax(ref_logits.float(), -1))


def kl_of_logprobs(logp: Float[Tensor, "*N V"], ref_logp: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """The same from log probabilities, for who has them already."""
    return (logp.exp() * (logp - ref_logp)).sum(-1)


def adapt_kl_coef(kl_coef: float, kl: float, target: float, n: int, horizon: int) -> float:
    """The next coefficient: raised when the measured KL is above target, lowered when below.

    Args:
        kl: mean KL of the last n responses, nats a response.
        target: nats a response.
        horizon: responses over which a steady 20% error would multiply the coefficient by about 1.2.

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * n / horizon)
