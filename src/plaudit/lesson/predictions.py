"""What a model predicts for texts: continuations, next tokens, reward model logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plaudit import rng
from plaudit.batches import to_device
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.training.rollouts import generate


def continuations(
    lm: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seed: int,
    temperature: float,
    max_new_tokens: int = 48,
) -> tuple[list[str], list[bool]]:
    """A sampled continuation of each prompt, and whether the model ended it with eos.

    Args:
        lm: a causal language model.
        seed: the same seed gives the same random numbers, whatever the model.
        max_new_tokens: longest continuation, eos included.
    """
    policy = Policy(lm.eval(), PlainEngine(), value_head=False)
    ids = [tokenizer.prompt(prompt) for prompt in prompts]
    noise = rng.uniforms(range(len(prompts)), max_new_tokens, seed, "lesson", 0, "continuations")
    responses = generate(policy, ids, noise, tokenizer, temperature)
    texts = [tokenizer.continuation(*pair).strip() for pair in zip(ids, responses.tokens(), strict=True)]
    return texts, responses.ended.tolist()


@torch.no_grad()
def likely_next(lm: Any, tokenizer: Tokenizer, text: str, k: int = 8) -> tuple[list[str], list[float]]:
    """The k most likely next tokens after `text`, most likely first, and their probabilities."""
    ids = torch.tensor([tokenizer.prompt(text)], device=lm.device)
    top = lm.eval()(input_ids=ids).logits[0, -1].float().softmax(-1).topk(k)
    return visible_tokens(tokenizer, top.indices.tolist()), top.values.tolist()


def visible_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token as text; ␣ stands for a space, ↵ for a line break."""
    return [tokenizer.hf.decode([i]).replace(" ", "␣").replace("\n", "↵") for i in ids]


@torch.no_grad()
def reward_logits(classifier: Any, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """(N,) logits of a reward model: for each text, the log odds that it is good."""
    model = RewardModel(classifier, PlainEngine()).eval()
    pairs = [tokenizer.demonstration("", text) for text in texts]
    by_length = np.argsort([len(response) for _, response in pairs], kind="stable")  # less padding in each batch
    logits = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), batch_size):
        rows = by_length[start : start + batch_size]
        batch = to_device(collate([pairs[i] for i in rows], tokenizer.pad_id), classifier.device)
        logits[rows] = model(batch.ids, batch.attention_mask).float().cpu().numpy()
    return logits
