"""Log-probabilities and entropy of tokens, and the shift from tokens to the positions that predict them."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def predicting(response_mask: Bool[Tensor, "B R"], length: int) -> Bool[Tensor, "B T"]:
    """Mask of the positions that predict response tokens, of T = `length`; the response is the last R positions.

    A causal model's state at position t has read tokens 0..t and predicts token t + 1.
    """
    return F.pad(response_mask, (length - response_mask.shape[1] - 1, 1))


def token_logprobs(logits: Float[Tensor, "*N V"], tokens: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Log-probability in nats of each token under the logits that predict it."""
    losses = F.cross_entropy(logits.flatten(0, -2).float(), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape)


def entropy_of_logprobs(logp: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Entropy in nats of each next-token distribution, from log-probabilities."""
    return -(logp.exp() * logp).sum(-1)
