"""KL(policy || reference) in nats, on tokens sampled from the policy: estimators k1, k2 and k3, and the exact sum.

Sources: J. Schulman, "Approximating KL divergence" (2020) for k1, k2 and k3; arXiv 2504.10637 for the exact sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kl_k1(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """logprob - ref_logprob of the sampled token: unbiased, high variance, negative for some tokens."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half the square of k1: biased, of low variance and never negative. Its gradient is, on average, that of KL."""
    return (logprobs - ref_logprobs) ** 2 / 2


def kl_k3(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(q/p - 1) - log(q/p) of the sampled token, p policy and q reference: unbiased and never negative."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def bias(estimator: str, place: str) -> str:
    """What is wrong with the gradient of this estimator as a penalty in the reward or in the loss; "" if nothing is.

    Source: arXiv 2506.09477; tests/proofs/test_groups.py computes each by enumeration.
    """
    if (estimator, place) == ("k1", "reward"):
        return ""
    of_tokens = "is that of KL at each token, without its effect on the tokens that follow"
    in_loss = {
        "k1": "is 0 on average: use k2 or full, or kl_in = reward",
        "k2": of_tokens,
        "k3": "is that of KL(reference || policy), not of KL(policy || reference)",
        "full": of_tokens,
    }
    wrong = in_loss[estimator] if place == "loss" else "is not that of KL: only k1 is unbiased in the reward"
    return f"the gradient of the penalty {estimator} in the {place} {wrong}"


SAMPLED = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}  # estimators that need the sampled token alone


def kl_full(logits: Float[Tensor, "*N V"], ref_logits: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Exact KL of the next-token distributions at each position: a sum over the vocabulary.

    Its sum over a response is the Rao-Blackwellised estimate of the sequence KL: unbiased, with at most the variance
    of k1.
    """
    return kl_of_logprobs(torch.log_softmax(logits.float(), -1), torch.log_softmax(ref_logits.float(), -1))


def kl_of_logprobs(logp: Float[Tensor, "*N V"], ref_logp: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """`kl_full` from log-probabilities."""
    return (logp.exp() * (logp - ref_logp)).sum(-1)


def adapt_kl_coef(kl_coef: float, kl: float, target: float, n: int, horizon: int) -> float:
    """The next kl_coef: higher if the measured KL is above the target, lower if below.

    Args:
        kl: mean KL of the last n responses, nats per response.
        target: nats per response.
        horizon: number of responses in which a constant error of 20% changes kl_coef by about 20%.

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * n / horizon)


def measured_kl_coef(penalties: Float[Tensor, "B"], kl: Float[Tensor, "B"]) -> dict[str, float]:
    """What a nat of KL costs a response in what is learned from: the slope of the penalties over the responses.

    It is kl_coef, unless the penalty gets lost between the setting and the loss. Without an entry where the KL
    does not vary, as in the first iteration.

    Args:
        penalties: score less reward of each response, up to a constant.
        kl: log-ratio of each response to the reference, in nats.
    """
    centred = kl - kl.mean()
    variance = (centred**2).mean()
    return {"kl_coef_measured": ((centred * penalties).mean() / variance).item()} if variance > 1e-8 else {}
