"""Sampling responses: one batch, a key-value cache, and noise that the caller brings."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Responses
from plaudit.models.heads import in_float32, position_ids

_LEAVE_BELOW = 0.8  # finished rows leave the batch when this share of it still runs: moving the cache costs time too


def sample_tokens(logits: Float[Tensor, "B V"], u: Float64[Tensor, "B"]) -> Int[Tensor, "B"]:
    """One token a row from softmax(logits), by inverting the cumulative distribution at u in [0, 1).

    Exactly the distribution that is scored: no top-k, no top-p.
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    # Rounding can leave the total a hair from 1: measure u against the total, not against 1.
    target = u[:, None].to(logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def generate(
    lm: Any,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    noise: Float64[Tensor, "B R"],
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
) -> Responses:
    """Continue every prompt until its end token, or until R tokens.

    Args:
        prompt_ids, prompt_mask: prompts padded on the left.
        noise: (B, R) numbers in [0, 1), one for each token that may be drawn; R caps the response length.
    """
    batch, cap = noise.shape
    tokens = torch.full((batch, cap), pad_id, device=prompt_ids.device)
    lengths = torch.full((batch,), cap, device=prompt_ids.device)
    rows = torch.arange(batch, device=prompt_ids.device)  # of the batch, those still in the forward pass
    running = torch.ones_like(rows, dtype=torch.bool)
    mask, cache, next_ids, next_positions = prompt_mask, None, prompt_ids, position_ids(prompt_mask)
    for t in range(cap):
        output = lm.base_model(
            input_ids=next_ids,
            attention_mask=mask.long(),
            position_ids=next_positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        logits = in_float32(lm.get_output_embeddings(), output.last_hidden_state[:, -1]) / temperature
        token = sample_tokens(logits, noise[rows, t]).masked_fill(~running, pad_id)
        tokens[rows, t] = token
        mask = torch.cat([mask, running[:, None]], dim=1)
        ends = running & (token == eos_id)
        lengths[rows[ends]] = t + 1
        running = running & ~ends
        left = int(running.sum())
        if not left:
            break
        if left <= _LEAVE_BELOW * len(rows):
            rows, token, mask = rows[running], token[running], mask[running]
            cache.batch_select_indices(running.nonzero().squeeze(1))
            running = running[running]
        next_ids, next_positions = token[:, None], position_ids(mask)[:, -1:]
    width = int(lengths.max())
    response_mask = torch.arange(width, device=lengths.device) < lengths[:, None]
    ended = torch.ones_like(lengths, dtype=torch.bool).index_fill(0, rows[running], False)
    return Responses(
        ids=torch.cat([prompt_ids, tokens[:, :width]], dim=1),
        attention_mask=torch.cat([prompt_mask, response_mask], dim=1),
        response_mask=response_mask,
        ended=ended,
    )
