"""Drawing tokens from logits with random numbers that the caller supplies."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor

_PART = 256  # tokens; about the square root of a vocabulary, so that both searches are short


def sample_tokens(logits: Float[Tensor, "B V"], u: Float64[Tensor, "B"]) -> Int[Tensor, "B"]:
    """One token a row from softmax(logits), by inverting the cumulative distribution at u in [0, 1).

    This is exactly the distribution that is scored: no top-k, no top-p. The search has two steps, which part of the
    vocabulary u falls into and which token of that part, so that the whole vocabulary is not summed in float64.
    """
    p = torch.softmax(logits.float(), dim=-1)
    p = p.cpu() if p.device.type == "mps" else p  # it has no float64
    parts = F.pad(p, (0, -p.shape[1] % _PART)).view(len(p), -1, _PART)
    part, rest = _invert(parts.sum(-1), u.to(p.device))
    token, _ = _invert(parts[torch.arange(len(p), device=p.device), part], rest)
    return (part * _PART + token).clamp(max=logits.shape[-1] - 1).to(logits.device)


def _invert(weights: Float[Tensor, "B N"], u: Float64[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float64[Tensor, "B"]]:
    """Index of the weight that u falls into, and how far into it, in [0, 1). The weights may have any sum."""
    cumulative = weights.double().cumsum(-1)
    target = u[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True).clamp(max=weights.shape[-1] - 1)
    weight = weights.gather(1, index)
    return index.squeeze(1), ((target - cumulative.gather(1, index)) / weight + 1).squeeze(1)
