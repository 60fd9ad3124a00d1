"""The tokenizer that all models of a run share. Each text is tokenised only once."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AddedToken

from plaudit.batches import Responses, Sequences
from plaudit.errors import DataError, ModelError
from plaudit.models.chat import ChatTemplate, Rendered, ending_with_the_reply
from plaudit.records import Dialogue, Message, Text, asking, dialogue

Runs: TypeAlias = tuple[list[int], ...]  # token ids of a text: read, learned, read, learned, ...
_BYTE = re.compile(r"<0x[0-9A-F]{2}>$")  # a byte of a text, which some tokenizers list among their special tokens


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and its special tokens, as RLHF uses them.

    What people wrote is text: a special token's string in it, such as "</s>", never becomes that token, unless
    `special_tokens` is set. A dialogue is put into words by the chat template, which writes bos and the ends of turns.
    """

    hf: Any
    bos_id: int | None  # before every text, so that the model can predict the first token; some models have none
    eos_id: int  # ends every text, and every reply that the chat template leaves without an end
    pad_id: int  # fills short rows of a batch
    control_ids: frozenset[int] = frozenset()  # tokens that no text contains
    other_end_ids: tuple[int, ...] = ()  # tokens besides eos that end a response, such as the end of a turn
    special_tokens: bool = False
    chats: bool = False  # whether the models of the run are trained on dialogues
    transcripts: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False, compare=False)  # by prompt

    @staticmethod
    def of(hf: Any, end_ids: Iterable[int] = ()) -> Tokenizer:
        """Wrap a Hugging Face tokenizer, which must have an end-of-text token.

        Args:
            end_ids: further tokens that end a response; that which ends a turn in the chat template is found here.
        """
        if hf.eos_token_id is None:
            raise ModelError(f"the tokenizer of '{hf.name_or_path}' has no end-of-text token; set its eos_token")
        ends = {hf.bos_token_id, hf.eos_token_id} - {None}
        special = {*hf.all_special_ids} | {id for id, token in hf.added_tokens_decoder.items() if token.special}
        control = {id for id in special - {hf.unk_token_id} if not _BYTE.match(hf.convert_ids_to_tokens(id))} | ends
        tokenizer = Tokenizer(hf, hf.bos_token_id, hf.eos_token_id, _padding_id(hf), frozenset(control))
        others = sorted({*end_ids, tokenizer._end_of_turn()} - {hf.eos_token_id})
        return replace(tokenizer, other_end_ids=tuple(others))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a response, eos first."""
        return (self.eos_id, *self.other_end_ids)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template."""
        control = self.hf.convert_ids_to_tokens(sorted(self.control_ids))
        return ChatTemplate(self.hf, control, special_tokens=self.special_tokens)

    def for_dialogues(self) -> Tokenizer:
        """The same tokenizer for models that are trained on dialogues: saved with the chat template that it uses."""
        hf = copy.deepcopy(self.hf)
        hf.chat_template = self.template.template
        return replace(self, hf=hf, chats=True)

    def prompt(self, text: Text) -> list[int]:
        """The beginning-of-text token, then the ids of `text` without trailing spaces, which begin the response.

        Of a dialogue: its ids up to where the chat template begins the assistant's reply.

        Raises:
            DataError: the chat template refuses the dialogue.
            ModelError: there are no ids, so that nothing predicts the first token of a response.
        """
        if not isinstance(text, str):
            ids = self._rendered_ids(self.template.prompt(text))
            self.transcripts[tuple(ids)] = asking(text)
            return ids
        ids = self._begun(self._ids(text.rstrip(" "))[0])
        if not ids:
            raise ModelError(
                f"the prompt {text!r} gives no tokens, and this model has no beginning-of-text token; add some words"
            )
        return ids

    def pieces(self, text: str) -> list[int]:
        """The ids of `text` alone, without bos and eos."""
        return self._ids(text)[0]

    def beginning(self, ids: Sequence[int]) -> str:
        """The text whose prompt has these ids after bos; empty if there is none, as where a character is cut."""
        text = self._decoded(ids)
        return text if text.strip() and self.prompt(text) == self._begun([*ids]) else ""

    def response(self, text: str) -> list[int]:
        """The ids of `text`, then the end-of-text token."""
        return [*self._ids(self._unended(text))[0], self.eos_id]

    def demonstration(self, prompt: Text, response: Text) -> Runs:
        """Prompt ids and response ids of two texts with one space between them, unless a line break separates them.

        Of dialogues: in turn the ids that are read and those of a reply, as often as the assistant replies in
        `response`. If one of the two is a dialogue, the other is taken for a message.

        Raises:
            DataError: see `ChatTemplate.demonstration`.
        """
        if not isinstance(response, str) or not isinstance(prompt or "", str):
            return self._conversation(dialogue(prompt, "user"), dialogue(response, "assistant"))
        prompt = prompt if isinstance(prompt, str) else ""
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
        """The text of `ids`, without special tokens; of the prompt of a dialogue, its transcript.

        For display only: do not tokenise it again.
        """
        return self.transcripts.get(tuple(ids)) or self._decoded(ids)

    def continuation(self, prompt: Sequence[int], response: Sequence[int]) -> str:
        """The text that `response` adds to `prompt`, with its leading space, which some decoders would drop."""
        return self._decoded([*prompt, *response])[len(self._decoded(prompt)) :]

    def portable(self, *, ends: bool) -> Any:
        """A Hugging Face tokenizer that pads and adds bos by itself as we do; with `ends`, for whole texts, eos too."""
        hf = copy.deepcopy(self.hf)
        if hf.pad_token_id != self.pad_id:
            # As a whole word only: "ÿ", the name of a byte, is also a letter.
            hf.pad_token = AddedToken(hf.convert_ids_to_tokens(self.pad_id), single_word=True, normalized=False)
        hf.add_bos_token, hf.add_eos_token = self.bos_id is not None, ends
        hf.padding_side = hf.init_kwargs["padding_side"] = "right" if ends else "left"
        # A prompt may be made by a chat template, with control tokens; a text has none.
        splits = ends and not (self.chats or self.special_tokens)
        hf.split_special_tokens = hf.init_kwargs["split_special_tokens"] = splits
        if ends and self.chats:
            ended = self._example().ended
            hf.chat_template = ending_with_the_reply(self.template.template, ended=ended)
        return hf

    def _conversation(self, prompt: Dialogue, response: Dialogue) -> Runs:
        """The ids of a conversation, in turn those that are read and those of a reply."""
        rendered = self.template.demonstration(prompt, response)
        runs: list[list[int]] = []
        ids: list[int] = []
        begin = 0
        for end in chain(*rendered.spans):
            longer = self._rendered_ids(rendered.text[:end])
            if longer[: len(ids)] != ids:  # a token would cross the cut, and a sampled reply cannot begin within one
                longer = [*ids, *self._rendered_ids(rendered.text[begin:end])]
            runs.append(longer[len(ids) :])
            ids, begin = longer, end
        if not rendered.ended:
            runs[-1] = [*runs[-1], self.eos_id]
        return tuple(runs)

    def _rendered_ids(self, text: str) -> list[int]:
        """The ids of what a chat template has written."""
        parts = [
            self._ids(part)[0] if written else self.hf(part, add_special_tokens=False, verbose=False)["input_ids"]
            for part, written in self.template.pieces(text)
        ]
        return [*chain(*parts)]

    def _example(self) -> Rendered:
        """A question and a reply as the chat template writes them."""
        return self.template.demonstration((Message("user", "a"),), (Message("assistant", "b"),))

    def _end_of_turn(self) -> int:
        """The token that ends a reply in the model's own chat template; eos if it has none, or none that works."""
        if not getattr(self.hf, "chat_template", None):
            return self.eos_id
        try:
            return self._conversation((Message("user", "a"),), (Message("assistant", "b"),))[-1][-1]
        except DataError:
            return self.eos_id

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def _unended(self, text: str) -> str:
        """`text` without an end-of-text string that people have put at its end: it ends once."""
        end = self.hf.eos_token
        while text.rstrip().endswith(end):
            text = text.rstrip().removesuffix(end).rstrip()
        return text

    def _ids(self, *texts: str) -> list[list[int]]:
        """The ids of each text, without control tokens, unless `special_tokens` is set."""
        split = not self.special_tokens
        rows = self.hf([*texts], add_special_tokens=False, split_special_tokens=split, verbose=False)["input_ids"]
        if self.special_tokens:
            return rows
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


def collate(texts: Sequence[Sequence[Sequence[int]]], pad_id: int) -> Sequences:
    """Pad texts, each in `Runs` of ids, on the right into one batch; the loss mask covers every second run."""
    ids, attention_mask = _pad([[*chain(*runs)] for runs in texts], pad_id, "right")
    learned, _ = _pad([[place % 2 for place, run in enumerate(runs) for _ in run] for runs in texts], 0, "right")
    return Sequences(ids, attention_mask, learned.bool())


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, P) ids and (B, P) attention mask of prompts padded on the left, ready for generation."""
    return _pad(prompts, pad_id, "left")


def join_prompts(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], ended: Sequence[bool], pad_id: int) -> Responses:
    """Prompts and given responses as if a model had sampled them."""
    prompts, prompt_mask = pad_left([prompt for prompt, _ in pairs], pad_id)
    ids, mask = _pad([response for _, response in pairs], pad_id, "right")
    whole, attention_mask = torch.cat([prompts, ids], 1), torch.cat([prompt_mask, mask], 1)
    return Responses(whole, attention_mask, mask, torch.tensor(ended, dtype=torch.bool))


def _pad(rows: Sequence[Sequence[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """(B, T) ids and (B, T) attention mask of rows padded on one side."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones_like(row, dtype=torch.bool) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side),
        pad_sequence(masks, batch_first=True, padding_side=side),
    )
