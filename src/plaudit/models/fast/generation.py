"""Sampling with a preallocated cache, from which finished responses are removed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Responses
from plaudit.models.fast.decoder import Decoder
from plaudit.models.sampling import sample_tokens

_SHARE_THAT_RUNS = 0.8  # finished rows are removed when at most this share still runs: moving the cache costs time too
_TOKENS_BETWEEN_LOOKS = {"cpu": 1, "cuda": 8}  # a GPU has to stop to answer how many rows still run


def generate(
    lm: Any,
    logits_of: Callable[[Float[Tensor, "B D"]], Float[Tensor, "B V"]],
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    noise: Float64[Tensor, "B R"],
    end_ids: Sequence[int],
    pad_id: int,
    depths: tuple[int, ...] = (),
) -> tuple[Responses, list[Float[Tensor, "B T D"]]]:
    """Continue every prompt until an end token, or until R tokens; see `PlainEngine.generate`.

    `logits_of` applies the temperature; `depths` are numbers of lowest layers, ascending, whose outputs are returned.
    """
    (batch, limit), width = noise.shape, prompt_ids.shape[1]
    device = prompt_ids.device
    tokens = torch.full((batch, limit), pad_id, device=device)
    lengths = torch.full((batch,), limit, device=device)
    rows = torch.arange(batch, device=device)  # of the batch, those that are still read
    running = torch.ones_like(rows, dtype=torch.bool)
    end_tokens = torch.tensor(end_ids, device=device)
    decoder = Decoder(lm, width + limit, depths)
    outputs, last = decoder.append(prompt_ids, prompt_mask)
    kept = [F.pad(output, (0, 0, 0, limit)) for output in outputs]
    for t in range(limit):
        token = sample_tokens(logits_of(last), noise[rows.to(noise.device), t]).masked_fill(~running, pad_id)
        tokens[rows, t] = token
        drew = running
        ends = running & torch.isin(token, end_tokens)
        lengths[rows] = lengths[rows].masked_fill(ends, t + 1)
        running = running & ~ends
        # A token is read for what comes after it, and for its own activations where these are wanted.
        unread = drew if depths else running
        if (t + 1) % _TOKENS_BETWEEN_LOOKS.get(device.type, 8) == 0:
            left = int(unread.sum())
            if not left:
                break
            if left <= _SHARE_THAT_RUNS * len(rows):
                stay = unread.nonzero().squeeze(1)
                decoder.select(stay)
                rows, token, drew, running = rows[stay], token[stay], drew[stay], running[stay]
        if t + 1 < limit or depths:
            outputs, last = decoder.append(token[:, None], drew[:, None])
            for states, output in zip(kept, outputs, strict=True):
                states[rows, width + t] = output[:, 0]
    longest = int(lengths.max())
    response_mask = torch.arange(longest, device=device) < lengths[:, None]
    responses = Responses(
        ids=torch.cat([prompt_ids, tokens[:, :longest]], dim=1),
        attention_mask=torch.cat([prompt_mask, response_mask], dim=1),
        response_mask=response_mask,
        ended=torch.ones_like(lengths, dtype=torch.bool).index_fill(0, rows[running], False),
    )
    return responses, [states[:, : width + longest] for states in kept]
