"""Log probabilities of tokens, and the one function that aligns predictions with tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def predicting(response_mask: Bool[Tensor, "B R"], length: int) -> Bool[Tensor, "B T"]:
    """Of `length` positions, those whose states predict the tokens under the mask of the last R.

    A causal model's state at position t has read tokens 0..t and predicts token t + 1. This is the only
    place where that shift is made.
    """
    return F.pad(response_mask, (length - response_mask.shape[1] - 1, 1))


def token_logprobs(logits: Float[Tensor, "*N V"], tokens: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Log probability of each token under the logits that predict it, in nats."""
    losses = F.cross_entropy(logits.flatten(0, -2).float(), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape)


def entropy(logits: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Entropy of each next-token distribution, in nats."""
    return entropy_of_logprobs(torch.log_softmax(logits.float(), dim=-1))


def entropy_of_logprobs(logp: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """The same from log probabilities, for who has them already."""
    return -(logp.exp() * logp).sum(-1)
