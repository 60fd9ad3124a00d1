"""Rows of published layouts to demonstrations, comparisons, rankings and judged responses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from plaudit.data.columns import Row, Unusable, after, before_reply, dialogue, is_blank, turns, unpacked
from plaudit.data.hashed import REPLY, Choice, Record, common_beginning
from plaudit.data.opinions import fields, label
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, Dialogue, LabelledText, Message, Prompt, Ranking, Text

# Demonstrations


def plain(row: Row) -> Record:
    """A text to imitate."""
    return Demonstration("", row.filled("text"))


def completed(row: Row) -> Record:
    """Prompt and response, as texts or as conversations."""
    prompt, response = row.optional("prompt"), row.value("response")
    if isinstance(prompt, list) or isinstance(response, list):
        asked, replied = turns(prompt, "prompt", "user"), turns(response, "response", "assistant")
        if is_blank(replied):
            raise Unusable("empty")
        return Demonstration(_with_system(row, asked), replied)
    text, filled = row.prompt("prompt"), row.filled("response")
    if system := row.prompt("system"):
        return Demonstration((Message("system", system), Message("user", text)), (Message("assistant", filled),))
    return Demonstration(text, filled)


def conversation(row: Row) -> Record:
    """A conversation of which the model learns the replies."""
    messages = _with_system(row, dialogue(row.value("messages"), row.names.get("messages", "messages")))
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if is_blank(messages):
        raise Unusable("no reply of an assistant")
    start = before_reply(messages)
    return Demonstration(messages[:start], messages[start:])


def judged_conversation(row: Row) -> Record:
    """A conversation whose last reply has a label."""
    messages = _with_system(row, dialogue(row.value("messages"), "messages"))
    if is_blank(messages[-1:]):
        raise Unusable("no reply of an assistant")
    return LabelledText(messages[-1:], row.grade(label(row)), messages[:-1])


def _with_system(row: Row, messages: Dialogue) -> Dialogue:
    system = row.prompt("system")
    return (
        (Message("system", system), *messages) if system and messages[:1] != (Message("system", system),) else messages
    )


def _asked(row: Row) -> Dialogue:
    """The user's turn: instruction and input, or question and context."""
    words = [part for part in (row.prompt("prompt"), row.prompt("input")) if part]
    if not words:
        raise Unusable("empty")
    return _with_system(row, (Message("user", "\n\n".join(words)),))


def instructed(row: Row) -> Record:
    """A question or instruction, and its answer."""
    return Demonstration(_asked(row), (Message("assistant", row.filled("response")),))


def prompt_alone(row: Row) -> Record:
    """A prompt, as a text or as a conversation that waits for a reply."""
    if isinstance(row.value("prompt"), list):
        asked = _with_system(row, turns(row.value("prompt"), "prompt", "user"))
        if not any(message.content.strip() for message in asked):
            raise Unusable("empty")
        return Prompt(asked)
    text = row.filled("prompt")
    return Prompt((Message("system", system), Message("user", text)) if (system := row.prompt("system")) else text)


def question_alone(row: Row) -> Record:
    """A question or instruction without an answer."""
    return Prompt(_asked(row))


# Comparisons


def _compared(row: Row, prompt: Text, a: Text, b: Text, choice: Choice, margin: float = 0.0) -> Comparison:
    if a == b:
        raise Unusable("identical responses")
    if is_blank(a) or is_blank(b):
        raise Unusable("empty")
    annotator = row.optional("annotator")
    return Comparison(prompt, a, b, choice, "" if annotator is None else str(annotator), margin)


def chosen(row: Row) -> Record:
    """The chosen and the rejected response, as texts, as conversations, or as transcripts with the prompt inside."""
    chosen, rejected, margin = row.value("chosen"), row.value("rejected"), _margin(row)
    if isinstance(chosen, list) or isinstance(rejected, list) or isinstance(row.optional("prompt"), list):
        asked = _with_system(row, turns(row.optional("prompt"), "prompt", "user"))
        parts = after(asked, turns(chosen, "chosen", "assistant"), turns(rejected, "rejected", "assistant"))
        return _compared(row, *parts, "a", margin)
    is_question = row.names.get("prompt", "prompt") != "prompt" or row.has("system") or row.has("input")
    if is_question and (row.has("prompt") or row.has("input")):
        return _answers(row, "chosen", "rejected", "a", margin)
    first, second, prompt = row.filled("chosen"), row.filled("rejected"), row.prompt("prompt")
    if first == second:
        raise Unusable("identical responses")
    if prompt and first.startswith(prompt) and second.startswith(prompt) and REPLY in prompt:
        prompt = ""  # repeated in a transcript
    if not prompt:  # in HH-RLHF both texts begin with their dialogue
        before, reply, _ = common_beginning(first, second).rpartition(REPLY)
        prompt = before + reply
        first, second = first[len(prompt) :], second[len(prompt) :]
    return _compared(row, prompt, first, second, "a", margin)


def _margin(row: Row) -> float:
    """By how much the chosen response is better: a margin, or the difference of two scores."""
    margin, better, worse = (row.number(name) for name in ("margin", "score_chosen", "score_rejected"))
    if margin is None:
        margin = 0.0 if better is None or worse is None else better - worse
    if margin < 0:
        raise Unusable("scored against the choice")
    return margin if math.isfinite(margin) else 0.0


def _answers(row: Row, a: str, b: str, choice: Choice, margin: float = 0.0) -> Record:
    """Two answers to a question."""
    one, two = ((Message("assistant", row.filled(name)),) for name in (a, b))
    return _compared(row, _asked(row), one, two, choice, margin)


def _texts(row: Row, a: str, b: str, choice: Choice, margin: float = 0.0) -> Record:
    """Two responses to a prompt, which they continue."""
    return _compared(row, row.prompt("prompt"), row.filled(a), row.filled(b), choice, margin)


UNUSED = "left_out"  # the column of a vote that says why there is none


def vote(row: Row) -> Record:
    """What one person says about two responses, from an annotation tool; a row without an answer says why."""
    if row.has(UNUSED):
        raise Unusable(row.text(UNUSED))
    return pair(row)


def pair(row: Row) -> Record:
    """Two responses and the better one, as texts or as messages."""
    choice, margin = row.word("choice", _CHOICES), abs(row.number("margin") or 0.0)
    if not any(isinstance(row.optional(name), list) for name in ("prompt", "response_a", "response_b")):
        return _texts(row, "response_a", "response_b", choice, margin)
    asked = _with_system(row, turns(row.optional("prompt"), "prompt", "user"))
    a, b = (turns(row.value(name), name, "assistant") for name in ("response_a", "response_b"))
    return _compared(row, *after(asked, a, b), choice, margin)


_CHOICES: dict[str, Choice] = {"a": "a", "b": "b", "tie": "tie"}
_WINNERS: dict[str, Choice] = {
    **{"model_a": "a", "a": "a", "model_b": "b", "b": "b"},
    **{"tie": "tie", "tie (bothbad)": "tie", "both_bad": "tie", "bothbad": "tie"},
}


def _signed(row: Row, prompt: Text, a: Text, b: Text, column: str) -> Record:
    """HelpSteer: a preference below zero is for the first response."""
    strength = row.number(column)
    if strength is None:
        raise Unusable("unlabelled")
    return _compared(row, prompt, a, b, "tie" if not strength else "a" if strength < 0 else "b", abs(strength))


def helpsteer_2(row: Row) -> Record:
    """HelpSteer 2: two responses to a text."""
    a, b = row.filled("response_1"), row.filled("response_2")
    return _signed(row, row.prompt("prompt"), a, b, "preference_strength")


def helpsteer_3(row: Row) -> Record:
    """HelpSteer 3: two responses to a conversation."""
    a, b = ((Message("assistant", row.filled(name)),) for name in ("response1", "response2"))
    return _signed(row, dialogue(row.value("context"), "context"), a, b, "overall_preference")


def safe(row: Row) -> Record:
    """SafeRLHF: two responses, and the number of the better one."""
    return _texts(row, "response_0", "response_1", row.word("better_response_id", {"0": "a", "1": "b"}))


def stack_exchange(row: Row) -> Record:
    """StackExchange: response_j is better than response_k."""
    return _answers(row, "response_j", "response_k", "a")


def openai(row: Row) -> Record:
    """OpenAI's preference format."""
    asked = dialogue(fields(row, "input").get("messages"), "input")
    a, b = (dialogue(row.value(name), name) for name in ("preferred_output", "non_preferred_output"))
    return _compared(row, *after(asked, a, b), "a")


def shp(row: Row) -> Record:
    """SHP: the first answer is better where labels is 1."""
    choice: Choice = row.word("labels", {"1": "a", "0": "b"})
    return _answers(row, "human_ref_a", "human_ref_b", choice, row.number("score_ratio") or 0.0)


def summaries(row: Row) -> Record:
    """Summarize from feedback: a post and two summaries."""
    info, summaries = fields(row, "info"), unpacked(row.value("summaries"), "summaries")
    if len(summaries) != 2 or not all(isinstance(s, dict) and isinstance(s.get("text"), str) for s in summaries):
        raise DataError("summaries: must be two objects with a text")
    post, title = (str(info.get(name) or "") for name in ("post", "title"))
    lines = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
    lines += [f"TITLE: {title}"] if title else []
    prompt = "\n\n".join([*lines, f"POST: {post or info.get('article') or ''}", "TL;DR:"])
    choice: Choice = row.word("choice", {"0": "a", "1": "b"})
    return _compared(row, prompt, summaries[0]["text"], summaries[1]["text"], choice)


def arena(row: Row) -> Record:
    """Chatbot arena: two conversations and the winner."""
    a, b = (dialogue(row.value(name), name) for name in ("conversation_a", "conversation_b"))
    return _compared(row, *after((), a, b), row.word("winner", _WINNERS))


def arena_table(row: Row) -> Record:
    """Turns as lists of texts, and the winner in three columns."""
    asked, one, two = (unpacked(row.value(name), name) for name in ("prompt", "response_a", "response_b"))
    if len(asked) != len(one) or len(asked) != len(two):
        raise DataError("prompt, response_a and response_b: must have equally many turns")
    if any(reply is None for reply in (*one, *two)):
        raise Unusable("empty")
    a, b = (
        tuple(m for q, r in zip(asked, replies, strict=True) for m in (Message("user", q), Message("assistant", r)))
        for replies in (one, two)
    )
    choice: Choice = "a" if row.number("winner_model_a") else "b" if row.number("winner_model_b") else "tie"
    return _compared(row, *after((), a, b), choice)


# Rankings


def _ranked(row: Row, prompt: Text, responses: list[Any], ranks: list[Any]) -> Record:
    """Responses with ranks, of which the lowest is the best. Of responses with equal ranks the first stays."""
    if len(responses) != len(ranks):
        raise DataError(f"{len(responses)} responses, but {len(ranks)} ranks")
    best: dict[float, Text] = {}
    for response, rank in zip(responses, ranks, strict=True):
        if isinstance(rank, bool) or not isinstance(rank, (int, float)) or not math.isfinite(rank):
            raise DataError(f"rank {rank!r:.40}: must be a number")
        if not isinstance(response, str):
            raise DataError(f"response {response!r:.40}: must be text")
        if response.strip():
            best.setdefault(rank, response)
    ordered = list(dict.fromkeys(best[rank] for rank in sorted(best)))
    if len(ordered) < 2:
        raise Unusable("fewer than two ranks")
    replies = ordered if isinstance(prompt, str) else [(Message("assistant", str(text)),) for text in ordered]
    annotator = row.optional("annotator")
    return Ranking(prompt, tuple(replies), "" if annotator is None else str(annotator))


def ranking(row: Row) -> Record:
    """Responses and their ranks."""
    responses = unpacked(row.value("responses"), "responses")
    return _ranked(row, row.prompt("prompt"), responses, unpacked(row.value("rank"), "rank"))


def ranked_list(row: Row) -> Record:
    """Responses from the best to the worst."""
    responses = unpacked(row.value("ranked_responses"), "ranked_responses")
    return _ranked(row, row.prompt("prompt"), responses, list(range(len(responses))))


def ranked_objects(column: str, text: str, rank: str, sign: int) -> Callable[[Row], Record]:
    """Responses as objects with a text and a rank (sign 1) or a score (sign -1)."""

    def make(row: Row) -> Record:
        answers = unpacked(row.value(column), column)
        if not all(isinstance(answer, dict) for answer in answers):
            raise DataError(f"{column}: must be a list of objects with {text} and {rank}")
        kept = [answer for answer in answers if answer.get(rank) is not None]
        ranks = [sign * value if isinstance(value := answer[rank], (int, float)) else value for answer in kept]
        prompt: Text = row.prompt("prompt") if row.names.get("prompt", "prompt") == "prompt" else _asked(row)
        return _ranked(row, prompt, [answer.get(text) for answer in kept], ranks)

    return make


# Responses that somebody judged


def judged(row: Row) -> Record:
    """A response and its label, which says whether it is good."""
    found = completed(row)
    assert isinstance(found, Demonstration)
    return LabelledText(found.response, row.grade(label(row)), found.prompt)
