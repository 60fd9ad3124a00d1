"""Prompts: the first words of texts, for a model to continue, and dialogues, for it to answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

from plaudit import rng
from plaudit.data.splits import Part
from plaudit.data.text import content_hash
from plaudit.records import Message, Text, dialogue, transcript

# What a text is cut into: its units, and the text of the first ones, which is empty where there is none.
Unit: TypeAlias = tuple[Callable[[str], list[Any]], Callable[[list[Any]], str]]
WORDS: Unit = (str.split, " ".join)


def cut_prompts(part: Part, low: int, high: int, seed: int, *, from_words: int = 0, unit: Unit = WORDS) -> list[Text]:
    """Distinct prompts from `part`, independent of the order of its records.

    Prompts without a response are taken as they are. A demonstration with a prompt gives that prompt, and a dialogue
    gives its turns before the assistant's last one. Another text of at least `from_words` words gives its first `low`
    to `high` units; the length is random, and at least one unit is left. A text of at most `low` units gives no prompt,
    and neither does a dialogue in which nobody speaks before the assistant.
    """
    prompts = [each.prompt for each in part.to_answer]
    split, join = unit
    for d in sorted(part.demonstrations, key=lambda d: content_hash(transcript(d.prompt or d.response))):
        if asked := prompt_of(d.prompt, d.response):
            prompts.append(asked)
        if asked or not isinstance(d.response, str) or (from_words and len(d.response.split()) < from_words):
            continue
        units = split(d.response)
        longest = min(high, len(units) - 1)
        if longest >= low:
            draw = rng.generator(seed, "prompts", 0, content_hash(d.response))
            prompts.append(join(units[: draw.integers(low, longest + 1)]))
    return [prompt for prompt in dict.fromkeys(prompts) if prompt]


def held_out_prompts(part: Part, low: int, high: int, seed: int, seen: list[Text], **how: Any) -> list[Text]:
    """Prompts from the evaluation part, without those in `seen`: short ones such as "the film is" also occur there.

    `how` is that of `cut_prompts`.
    """
    hashes = {content_hash(transcript(prompt)) for prompt in seen}
    return [p for p in cut_prompts(part, low, high, seed, **how) if content_hash(transcript(p)) not in hashes]


def holds_dialogues(part: Part) -> bool:
    """Whether a demonstration or a prompt of `part` is a dialogue, or answers one."""
    texts = itertools.chain((p.prompt for p in part.to_answer), *((d.prompt, d.response) for d in part.demonstrations))
    return any(isinstance(text, tuple) and text for text in texts)


def some_texts(part: Part, number: int) -> list[tuple[Text, Text]]:
    """Prompts and responses of the first demonstrations; of prompts alone, with their last words as the response."""
    pairs = [(d.prompt, d.response) for d in part.demonstrations[:number]]
    return pairs or [(each.prompt, _repeated(each.prompt)) for each in part.to_answer[:number]]


def _repeated(prompt: Text) -> Text:
    return prompt if isinstance(prompt, str) else (Message("assistant", prompt[-1].content),)


def prompt_of(prompt: Text, response: Text) -> Text:
    """The prompt of a demonstration; where its response is a dialogue, with the turns before the assistant's last."""
    if isinstance(response, str):
        return prompt
    last = max((i for i, message in enumerate(response) if message.role == "assistant"), default=0)
    return (*dialogue(prompt, "user"), *response[:last])
