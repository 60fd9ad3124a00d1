"""The tokenizer that all models of a run share. Each text is tokenised only once."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AddedToken

from plaudit.batches import Sequences
from plaudit.errors import ModelError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>$")  # a byte of a text, which some tokenizers list among their special tokens


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and its special tokens, as RLHF uses them.

    What people wrote is text: a special token's string in it, such as "</s>", never becomes that token.
    """

    hf: Any
    bos_id: int | None  # before every text, so that the model can predict the first token; some models have none
    eos_id: int  # ends every response
    pad_id: int  # fills short rows of a batch
    control_ids: frozenset[int] = frozenset()  # tokens that no text contains

    @staticmethod
    def of(hf: Any) -> Tokenizer:
        """Wrap a Hugging Face tokenizer, which must have an end-of-text token."""
        if hf.eos_token_id is None:
            raise ModelError(f"the tokenizer of '{hf.name_or_path}' has no end-of-text token; set its eos_token")
        ends = {hf.bos_token_id, hf.eos_token_id} - {None}
        special = {*hf.all_special_ids} | {id for id, token in hf.added_tokens_decoder.items() if token.special}
        control = {id for id in special - {hf.unk_token_id} if not _BYTE.match(hf.convert_ids_to_tokens(id))} | ends
        return Tokenizer(hf, hf.bos_token_id, hf.eos_token_id, _padding_id(hf), frozenset(control))

    def prompt(self, text: str) -> list[int]:
        """The beginning-of-text token, then the ids of `text` without trailing spaces, which begin the response.

        Raises:
            ModelError: there are no ids, so that nothing predicts the first token of a response.
        """
        ids = self._begun(self._ids(text.rstrip(" "))[0])
        if not ids:
            raise ModelError(
                f"the prompt {text!r} gives no tokens, and this model has no beginning-of-text token; add some words"
            )
        return ids

    def response(self, text: str) -> list[int]:
        """The ids of `text`, then the end-of-text token."""
        return [*self._ids(self._unended(text))[0], self.eos_id]

    def demonstration(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Prompt ids and response ids of two texts with one space between them, unless a line break separates them."""
        head, response = prompt.rstrip(" "), self._unended(response)
        if not head:
            return self._begun([]), self.response(response)
        if not response[:1].isspace():
            response = ("" if head[-1].isspace() else " ") + response
        # Some tokenizers put a space before every text, so the response is tokenised as it continues the prompt.
        ids, last, both = self._ids(head, head[-1], head[-1] + response)
        rest = both[len(last) :] if both[: len(last)] == last else self._ids(response)[0]
        return self._begun(ids), [*rest, self.eos_id]

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens. For display only: do not tokenise it again."""
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def continuation(self, prompt: Sequence[int], response: Sequence[int]) -> str:
        """The text that `response` adds to `prompt`, with its leading space, which some decoders would drop."""
        return self.text([*prompt, *response])[len(self.text(prompt)) :]

    def portable(self, *, ends: bool) -> Any:
        """A Hugging Face tokenizer that pads and adds bos by itself as we do; with `ends`, for whole texts, eos too."""
        hf = copy.deepcopy(self.hf)
        if hf.pad_token_id != self.pad_id:
            # As a whole word only: "ÿ", the name of a byte, is also a letter.
            hf.pad_token = AddedToken(hf.convert_ids_to_tokens(self.pad_id), single_word=True, normalized=False)
        hf.add_bos_token, hf.add_eos_token = self.bos_id is not None, ends
        hf.padding_side = hf.init_kwargs["padding_side"] = "right" if ends else "left"
        # A prompt may be made by a chat template, with control tokens; a text has none.
        hf.split_special_tokens = hf.init_kwargs["split_special_tokens"] = ends
        return hf

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def _unended(self, text: str) -> str:
        """`text` without an end-of-text string that people have put at its end: it ends once."""
        end = self.hf.eos_token
        while text.rstrip().endswith(end):
            text = text.rstrip().removesuffix(end).rstrip()
        return text

    def _ids(self, *texts: str) -> list[list[int]]:
        """The ids of each text, without control tokens."""
        rows = self.hf([*texts], add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        # A vocabulary of whole words or of sentencepieces has special strings among its ordinary pieces too.
        return [[id for id in row if id not in self.control_ids] for row in rows]


def _padding_id(hf: Any) -> int:
    """The tokenizer's own padding token if it differs from eos and bos; otherwise a byte that no UTF-8 text contains.

    Our masks are computed from lengths. But GPT-2 has no padding token, and pad = eos is a common silent bug: code that
    finds the end of a text by `id != pad` then finds it one token early. If the vocabulary does not have the byte, the
    unknown token or bos pads: neither is at the end of a text. eos is the last resort.
    """
    vocabulary, ends = hf.get_vocab(), (hf.eos_token_id, None)
    if hf.pad_token_id not in (*ends, hf.bos_token_id):
        return hf.pad_token_id
    letter = hf("ÿ", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    bytes_255 = [vocabulary.get(token) for token in ("<0xFF>", "ÿ")]  # in byte-fallback and byte-level vocabularies
    candidates = [id for id in bytes_255 if id not in letter]  # in other vocabularies "ÿ" is the letter
    return next((id for id in (*candidates, hf.unk_token_id, hf.bos_token_id) if id not in ends), hf.eos_token_id)


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
