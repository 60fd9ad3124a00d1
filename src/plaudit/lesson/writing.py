"""What a model writes and what it expects next, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from plaudit import rng
from plaudit.models.generation import generate
from plaudit.models.tokenizer import Tokenizer, pad_left


@torch.no_grad()
def continuations(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[str], seed: int, temperature: float, cap: int = 48
) -> list[tuple[str, bool]]:
    """What the model adds to each prompt, and whether it came to an end by itself. Same seed, same noise.

    Args:
        cap: tokens at most, the end token included.
    """
    model.eval()
    device = model.get_output_embeddings().weight.device
    prompt_ids, mask = pad_left([tokenizer.prompt(p) for p in prompts], tokenizer.pad_id)
    noise = rng.uniforms(range(len(prompts)), cap, seed, "lesson", 0, "continuations")
    answers = generate(
        model, prompt_ids.to(device), mask.to(device), noise, tokenizer.eos_id, tokenizer.pad_id, temperature
    )
    rows = zip(prompts, answers.response_ids.tolist(), answers.response_mask.tolist(), answers.ended, strict=True)
    return [
        (
            tokenizer.continuation(
                tokenizer.prompt(prompt), [i for i, kept in zip(ids, keep, strict=True) if kept]
            ).strip(),
            bool(ended),
        )
        for prompt, ids, keep, ended in rows
    ]


@torch.no_grad()
def likely_next(model: Any, tokenizer: Tokenizer, text: str, k: int = 8) -> tuple[list[str], list[float]]:
    """The k tokens that the model finds most likely after `text`, and their probabilities, falling."""
    model.eval()
    ids = torch.tensor([tokenizer.prompt(text)], device=model.get_output_embeddings().weight.device)
    probabilities = model(input_ids=ids).logits[0, -1].float().softmax(-1)
    top = probabilities.topk(k)
    return spelled(tokenizer, top.indices.tolist()), top.values.tolist()


def spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token by itself; ␣ is a space, and ↵ a line's end."""
    return [tokenizer.hf.decode([i]).replace(" ", "␣").replace("\n", "↵") for i in ids]
