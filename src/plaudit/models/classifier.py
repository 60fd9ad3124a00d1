"""A sequence classifier of any family that scores texts, with its own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from plaudit.errors import ModelError
from plaudit.models.loading import load_classifier

_AT_ONCE = 64  # texts in one pass


class Classifier:
    """The logit of a classifier with one label, or the log-odds of one of its labels, for prompt and response together.

    Args:
        name: a folder or hub id.
        label: one of its labels by name, as its config.json has them; "" if it has only one.

    Raises:
        ModelError: it cannot be opened, or it has several labels and none or another one is given.
    """

    def __init__(self, name: str, label: str = "", device: torch.device | str = "cpu") -> None:
        self.model, self.tokenizer = load_classifier(name)
        self.model.to(device).eval().requires_grad_(False)
        labels = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        if (label not in labels) if label else len(labels) > 1:
            problem = f"has no label '{label}'" if label else "has several labels"
            given = " or ".join(f"{name}:{each}" for each in labels[:4])
            raise ModelError(f"{name}: {problem}; its labels are {', '.join(labels)}: give {given}")
        self._column = labels.index(label) if label else 0
        self._several = len(labels) > 1 and self.model.config.problem_type != "multi_label_classification"
        self._window = _window(self.model, self.tokenizer)
        self._end = _end(self.model, self.tokenizer)
        # Without a padding token a model cannot tell where a short text of a batch ends.
        self._rows = 1 if self.tokenizer.pad_token_id is None or self.model.config.pad_token_id is None else _AT_ONCE

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One number for each response, in nats: the log-odds of the label, log p / (1 - p)."""
        texts = [prompt + response + self._end for prompt, response in zip(prompts, responses, strict=True)]
        return [x for i in range(0, len(texts), self._rows) for x in self._logits(texts[i : i + self._rows])]

    @torch.no_grad()
    def _logits(self, texts: list[str]) -> list[float]:
        # A long text loses its beginning, not the response; padding on the left would shift GPT-2's positions.
        self.tokenizer.truncation_side, self.tokenizer.padding_side = "left", "right"
        batch = self.tokenizer(
            texts, return_tensors="pt", padding=len(texts) > 1, truncation=True, max_length=self._window
        )
        logits: torch.Tensor = self.model(**batch.to(self.model.device)).logits.double()
        if self._several:
            others = [i for i in range(logits.shape[1]) if i != self._column]
            return (logits[:, self._column] - logits[:, others].logsumexp(1)).tolist()
        return logits[:, self._column].tolist()


def _end(model: Any, tokenizer: Any) -> str:
    """What stands at the end of a text: the end token, for a reward model whose tokenizer does not add it.

    A reward model is a decoder with one label. The trainers of TRL and others end the texts that it learns from.
    """
    id = tokenizer.eos_token_id
    if model.config.num_labels > 1 or not hasattr(model, "score") or id is None:
        return ""
    return "" if tokenizer("a")["input_ids"][-1] == id else tokenizer.eos_token


def _window(model: Any, tokenizer: Any) -> int:
    """The longest text in tokens that the classifier can read, special tokens included."""
    most = getattr(model.config, "max_position_embeddings", None) or 1_000_000
    # RoBERTa and its relatives count positions from the padding id + 1.
    offsets = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    return int(min(most - max(offsets, default=0), tokenizer.model_max_length))
