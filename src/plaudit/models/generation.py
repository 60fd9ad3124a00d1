"""Sampling responses: one batch, a key-value cache, and noise that the caller brings."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Below, Responses
from plaudit.models.cache import Reader
from plaudit.models.heads import logits_of

_PART = 256  # tokens; about the root of a vocabulary, so that both looks of a draw are short
_LEAVE_BELOW = 0.8  # finished rows leave the batch when this share of it still runs: moving the cache costs time too
_LOOK_EVERY = {"cpu": 1, "cuda": 8}  # tokens: a GPU would have to stop and answer


def sample_tokens(logits: Float[Tensor, "B V"], u: Float64[Tensor, "B"]) -> Int[Tensor, "B"]:
    """One token a row from softmax(logits), by inverting the cumulative distribution at u in [0, 1).

    Exactly the distribution that is scored: no top-k, no top-p. Found in two looks, so that the whole vocabulary is not
    summed up in float64: in which part of the vocabulary u falls, and at which token of that part.
    """
    p = torch.softmax(logits.float(), dim=-1)
    parts = F.pad(p, (0, -p.shape[1] % _PART)).view(len(p), -1, _PART)
    part, rest = _invert(parts.sum(-1), u.to(p.device))
    token, _ = _invert(parts[torch.arange(len(p), device=p.device), part], rest)
    return (part * _PART + token).clamp(max=logits.shape[-1] - 1)


def _invert(weights: Float[Tensor, "B N"], u: Float64[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Float64[Tensor, "B"]]:
    """Where u falls among weights of any total, and how far into that weight, in [0, 1)."""
    cumulative = weights.double().cumsum(-1)
    target = u[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True).clamp(max=weights.shape[-1] - 1)
    its = weights.gather(1, index)
    return index.squeeze(1), ((target - cumulative.gather(1, index)) / its + 1).squeeze(1)


@torch.no_grad()
def generate(
    lm: Any,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    noise: Float64[Tensor, "B R"],
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    depth: int = 0,
    shared: int = 0,
) -> Responses:
    """Continue every prompt until its end token, or until R tokens.

    Args:
        lm: a causal model.
        prompt_ids, prompt_mask: prompts padded on the left.
        noise: (B, R) numbers in [0, 1), one for each token that may be drawn; R caps the response length.
        depth, shared: blocks whose output is to be kept on the way, for those who begin there; 0 for none. The second
            is not larger than the first.
    """
    (batch, cap), width = noise.shape, prompt_ids.shape[1]
    device = prompt_ids.device
    tokens = torch.full((batch, cap), pad_id, device=device)
    lengths = torch.full((batch,), cap, device=device)
    rows = torch.arange(batch, device=device)  # of the batch, those still being read
    running = torch.ones_like(rows, dtype=torch.bool)
    depths = tuple(sorted({shared, depth}))
    reader = Reader(lm, width + cap, depths)
    read, last = reader.read(prompt_ids, prompt_mask)
    kept = [these.new_zeros(batch, width + cap, these.shape[2]) for these in read]
    for states, these in zip(kept, read, strict=True):
        states[:, :width] = these
    for t in range(cap):
        logits = logits_of(lm, last, temperature)
        token = sample_tokens(logits, noise[rows, t]).masked_fill(~running, pad_id)
        tokens[rows, t] = token
        drew = running
        ends = running & (token == eos_id)
        lengths[rows] = lengths[rows].masked_fill(ends, t + 1)
        running = running & ~ends
        # A token is read for what comes after it, and for its own state where that is wanted.
        unread = drew if depth else running
        if (t + 1) % _LOOK_EVERY[device.type] == 0:
            left = int(unread.sum())
            if not left:
                break
            if left <= _LEAVE_BELOW * len(rows):
                stay = unread.nonzero().squeeze(1)
                reader.keep(stay)
                rows, token, drew, running = rows[stay], token[stay], drew[stay], running[stay]
        if t + 1 < cap or depth:
            read, last = reader.read(token[:, None], drew[:, None])
            for states, these in zip(kept, read, strict=True):
                states[rows, width + t] = these[:, 0]
    longest = int(lengths.max())
    response_mask = torch.arange(longest, device=device) < lengths[:, None]
    ended = torch.ones_like(lengths, dtype=torch.bool).index_fill(0, rows[running], False)
    attention_mask = torch.cat([prompt_mask, response_mask], dim=1)
    padding = ~attention_mask[..., None]
    left_by = {
        blocks: Below(states[:, : width + longest].masked_fill(padding, 0.0), blocks)
        for blocks, states in zip(depths, kept, strict=True)
    }
    return Responses(
        ids=torch.cat([prompt_ids, tokens[:, :longest]], dim=1),
        attention_mask=attention_mask,
        response_mask=response_mask,
        ended=ended,
        below=left_by[depth],
        shared=left_by[shared],
    )
