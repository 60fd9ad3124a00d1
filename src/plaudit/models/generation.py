"""Sampling responses: one batch, a key-value cache, and noise that the caller brings."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Responses
from plaudit.models.heads import in_float32, position_ids


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
    device = prompt_ids.device
    batch, cap = noise.shape
    mask, tokens, alive = prompt_mask, [], []
    running = torch.ones(batch, dtype=torch.bool, device=device)
    cache, next_ids, next_positions = None, prompt_ids, position_ids(prompt_mask)
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
        token = sample_tokens(logits, noise[:, t]).masked_fill(~running, pad_id)
        tokens.append(token)
        alive.append(running)
        mask = torch.cat([mask, running[:, None]], dim=1)
        running = running & (token != eos_id)
        if not running.any():
            break
        next_ids, next_positions = token[:, None], position_ids(mask)[:, -1:]
    response_mask = torch.stack(alive, dim=1)
    return Responses(
        ids=torch.cat([prompt_ids, torch.stack(tokens, dim=1)], dim=1),
        attention_mask=torch.cat([prompt_mask, response_mask], dim=1),
        response_mask=response_mask,
        ended=~running,
    )
