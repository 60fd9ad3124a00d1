"""What a model predicts for texts: continuations, next tokens, reward model logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plaudit import rng
from plaudit.models.generation import generate
from plaudit.models.heads import score_texts
from plaudit.models.tokenizer import Tokenizer, collate, pad_left


@torch.no_grad()
def continuations(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seed: int,
    temperature: float,
    max_new_tokens: int = 48,
) -> tuple[list[str], list[bool]]:
    """A sampled continuation of each prompt, and whether the model ended it with eos.

    Args:
        seed: the same seed gives the same random numbers, whatever the model.
        max_new_tokens: longest continuation, eos included.
    """
    model.eval()
    device = model.get_output_embeddings().weight.device
    prompt_ids = [tokenizer.prompt(prompt) for prompt in prompts]
    ids, mask = pad_left(prompt_ids, tokenizer.pad_id)
    noise = rng.uniforms(range(len(prompts)), max_new_tokens, seed, "lesson", 0, "continuations")
    sampled = generate(model, ids.to(device), mask.to(device), noise, tokenizer.eos_id, tokenizer.pad_id, temperature)
    rows = zip(prompt_ids, sampled.response_ids, sampled.response_mask, strict=True)
    texts = [tokenizer.continuation(prompt, response[kept].tolist()).strip() for prompt, response, kept in rows]
    return texts, sampled.ended.tolist()


@torch.no_grad()
def likely_next(model: Any, tokenizer: Tokenizer, text: str, k: int = 8) -> tuple[list[str], list[float]]:
    """The k most likely next tokens after `text`, most likely first, and their probabilities."""
    model.eval()
    ids = torch.tensor([tokenizer.prompt(text)], device=model.get_output_embeddings().weight.device)
    top = model(input_ids=ids).logits[0, -1].float().softmax(-1).topk(k)
    return visible_tokens(tokenizer, top.indices.tolist()), top.values.tolist()


def visible_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token as text; ␣ stands for a space, ↵ for a line break."""
    return [tokenizer.hf.decode([i]).replace(" ", "␣").replace("\n", "↵") for i in ids]


@torch.no_grad()
def reward_logits(model: Any, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """(N,) logits of a reward model: for each text, the log odds that it is good."""
    model.eval()
    pairs = [tokenizer.demonstration("", text) for text in texts]
    by_length = np.argsort([len(response) for _, response in pairs], kind="stable")  # less padding in each batch
    logits = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), batch_size):
        rows = by_length[start : start + batch_size]
        batch = collate([pairs[i] for i in rows], tokenizer.pad_id).to(model.score.weight.device)
        logits[rows] = score_texts(model, batch.ids, batch.attention_mask).float().cpu().numpy()
    return logits
