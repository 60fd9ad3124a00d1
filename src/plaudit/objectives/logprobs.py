"""Log probabilities of tokens, and the one function that aligns predictions with tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def predicting(states: Float[Tensor, "B T *D"], n: int) -> Float[Tensor, "B n *D"]:
    """Of the states at T positions, those that predict the last n tokens.

    A causal model's state at position t has read tokens 0..t and predicts token t + 1. This is the only
    place where that shift is made.
    """
    return states[:, -n - 1 : -1]


def token_logprobs(logits: Float[Tensor, "B R V"], tokens: Int[Tensor, "B R"]) -> Float[Tensor, "B R"]:
    """Log probability of each token under the logits that predict it, in nats."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape)


def entropy(logits: Float[Tensor, "B R V"]) -> Float[Tensor, "B R"]:
    """Entropy of the next-token distribution at each position, in nats."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    return -(logp.exp() * logp).sum(-1)
