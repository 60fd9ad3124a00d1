"""A reward model's logits of any texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plaudit.models.heads import score_texts
from plaudit.models.tokenizer import Tokenizer, collate

_AT_ONCE = 64


@torch.no_grad()
def logits_of(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """(N,) log odds that each text is good."""
    model.eval()
    pairs = [tokenizer.demonstration("", text) for text in texts]
    by_length = np.argsort([len(response) for _, response in pairs], kind="stable")  # little padding
    logits = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _AT_ONCE):
        rows = by_length[start : start + _AT_ONCE]
        batch = collate([pairs[i] for i in rows], tokenizer.pad_id).to(model.score.weight.device)
        logits[rows] = score_texts(model, batch.ids, batch.attention_mask).float().cpu().numpy()
    return logits
