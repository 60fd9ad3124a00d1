"""Transcripts, such as those of HH-RLHF ("Human: ... Assistant: ..."), as conversations for a chat template."""

from __future__ import annotations

import re
from dataclasses import replace

from plaudit.data.hashed import REPLY, Record
from plaudit.records import Comparison, Demonstration, Dialogue, LabelledText, Message, Prompt, Text

_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}
_TURN = re.compile(rf"(?:\A\s*|\n\n)({'|'.join(_ROLES)}):")


def spoken(record: Record) -> Record:
    """The record as a conversation, if its prompt, or its text without a prompt, is a transcript; otherwise itself."""
    if isinstance(record, Demonstration):
        prompt, response = _parts(record.prompt, record.response)
        return replace(record, prompt=prompt, response=response)
    if isinstance(record, LabelledText):
        prompt, text = _parts(record.prompt, record.text)
        return replace(record, prompt=prompt, text=text)
    if isinstance(record, Comparison):
        prompt, a = _parts(record.prompt, record.response_a)
        _, b = _parts(record.prompt, record.response_b)
        return replace(record, prompt=prompt, response_a=a, response_b=b)
    if isinstance(record, Prompt):
        return replace(record, prompt=_parts(record.prompt, "")[0])
    pairs = [_parts(record.prompt, response) for response in record.responses]
    return replace(record, prompt=pairs[0][0], responses=tuple(response for _, response in pairs))


def _parts(prompt: Text, response: Text) -> tuple[Text, Text]:
    """Prompt and response as turns, where both are text and the prompt ends where the assistant speaks."""
    if not (isinstance(prompt, str) and isinstance(response, str)):
        return prompt, response
    if not prompt and _TURN.match(response) and REPLY in response:
        return (), _turns(response)
    if not (_TURN.match(prompt) and prompt.rstrip().endswith(REPLY)):
        return prompt, response
    return _turns(prompt.rstrip().removesuffix(REPLY)), _turns(f"{REPLY} {response}")


def _turns(transcript: str) -> Dialogue:
    """The turns of a transcript, without those that say nothing."""
    pieces = _TURN.split(transcript)[1:]
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return tuple(Message(_ROLES[who], said.strip()) for who, said in turns if said.strip())
