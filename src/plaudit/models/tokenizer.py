"""The tokenizer that all models of a run share. Each text is tokenised only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plaudit.batches import Sequences
from plaudit.errors import ModelError


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and its special tokens, as RLHF uses them."""

    hf: Any
    bos_id: int | None  # before every text, so that the model can predict the first token; some models have none
    eos_id: int  # ends every response
    pad_id: int  # fills short rows of a batch

    @staticmethod
    def of(hf: Any) -> Tokenizer:
        """Wrap a Hugging Face tokenizer, which must have an end-of-text token."""
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

    Our masks are computed from lengths. But GPT-2 has no padding token, and pad = eos is a common silent bug: code that
    finds the end of a text by `id != pad` then finds it one token early. eos is the last resort, if the vocabulary
    does not have the byte.
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
    ids, attention_mask = _pad([[*prompt, *response] for prompt, response in pairs], pad_id, "right")
    starts = torch.tensor([len(prompt) for prompt, _ in pairs])
    return Sequences(ids, attention_mask, attention_mask & (torch.arange(ids.shape[1]) >= starts[:, None]))


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, P) ids and (B, P) attention mask of prompts padded on the left, ready for generation."""
    return _pad(prompts, pad_id, "left")


def _pad(rows: Sequence[Sequence[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """(B, T) ids and (B, T) attention mask of rows padded on one side."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones_like(row, dtype=torch.bool) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side),
        pad_sequence(masks, batch_first=True, padding_side=side),
    )
