"""The tokenizer that all models of a run share. Each text is tokenised only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plaudit.batches import Sequences
from plaudit.errors import ModelError


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and its special tokens, as RLHF uses them.

    Attributes:
        hf: the tokenizer itself.
        bos_id: comes before every text, so that the model can predict the first token; None for a model that has
            no such token.
        eos_id: ends every response.
        pad_id: fills short rows of a batch. Our masks are computed from lengths, but some tools derive them from
            ids, so this token must not occur in any text: see `_padding_id`.
    """

    hf: Any
    bos_id: int | None
    eos_id: int
    pad_id: int

    @staticmethod
    def of(hf: Any) -> Tokenizer:
        """Wrap a Hugging Face tokenizer.

        Raises:
            ModelError: it has no end-of-text token.
        """
        if hf.eos_token_id is None:
            raise ModelError(f"the tokenizer of '{hf.name_or_path}' has no end-of-text token; set its eos_token")
        return Tokenizer(hf, hf.bos_token_id, hf.eos_token_id, _padding_id(hf))

    def prompt(self, text: str) -> list[int]:
        """The beginning-of-text token, then the ids of `text`."""
        ids = self.hf(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def response(self, text: str) -> list[int]:
        """The ids of `text`, then the end-of-text token."""
        return [*self.hf(text, add_special_tokens=False, verbose=False)["input_ids"], self.eos_id]

    def demonstration(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Prompt ids and response ids, with a space between the two texts if the response does not begin with one."""
        if prompt and not response[:1].isspace():
            response = " " + response
        return self.prompt(prompt), self.response(response)

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens. For display only: do not tokenise it again."""
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def continuation(self, prompt: Sequence[int], response: Sequence[int]) -> str:
        """The text that `response` adds to `prompt`, with its leading space, which some decoders would drop."""
        return self.text([*prompt, *response])[len(self.text(prompt)) :]


def _padding_id(hf: Any) -> int:
    """The tokenizer's own padding token if it differs from eos and bos; otherwise a byte that no UTF-8 text contains.

    GPT-2 has no padding token, and pad = eos is a common silent bug: code that finds the end of a text by `id != pad`
    then finds it one token early. eos is the last resort, if the vocabulary does not have the byte.
    """
    if hf.pad_token_id is not None and hf.pad_token_id not in (hf.eos_token_id, hf.bos_token_id):
        return hf.pad_token_id
    vocabulary = hf.get_vocab()
    for token in ("<0xFF>", "ÿ"):  # byte 0xFF in byte-fallback and in byte-level vocabularies
        if token in vocabulary:
            return vocabulary[token]
    return hf.eos_token_id


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Sequences:
    """Pad (prompt ids, response ids) pairs on the right into one batch; the loss mask covers the response."""
    width = max(len(p) + len(r) for p, r in pairs)
    ids = torch.full((len(pairs), width), pad_id)
    attention_mask = torch.zeros(len(pairs), width, dtype=torch.bool)
    loss_mask = torch.zeros(len(pairs), width, dtype=torch.bool)
    for i, (prompt, response) in enumerate(pairs):
        n, end = len(prompt), len(prompt) + len(response)
        ids[i, :end] = torch.tensor([*prompt, *response])
        attention_mask[i, :end] = True
        loss_mask[i, n:end] = True
    return Sequences(ids, attention_mask, loss_mask)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, P) ids and (B, P) attention mask of prompts padded on the left, ready for generation."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    attention_mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[i, width - len(prompt) :] = True
    return ids, attention_mask
