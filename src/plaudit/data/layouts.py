"""Published layouts: which columns they have, and how a row becomes records. A new layout is one entry of LAYOUTS."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plaudit.data.columns import Row, Unusable, after, before_reply, dialogue, is_blank, turns, unpacked
from plaudit.data.splits import REPLY, Choice, Record, common_beginning
from plaudit.data.tables import Column
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, Dialogue, LabelledText, Message, Ranking, Text

Columns = Mapping[str, Column]
Names = Mapping[str, str]  # columns of a table by the names that a layout uses

TEXT = "text|sentence|review|content|comment|tweet|phrase|review_text|reviewtext|review_body"
LABEL = "label|sentiment|polarity|target|class|stars|star_rating|rating|overall|labels"
REPLIES = "response|completion|output|answer"
SYSTEM = "system|system_prompt"
QUESTION = "prompt|question|instruction|query"
CHAT = "messages|conversations|conversation|dialogue|dialog"
_HARMLESS = re.compile(r"(_*id|.*[_-]id|idx|index|url|source|title|date|timestamp|meta|metadata|lang|language|)")


@dataclass(frozen=True)
class Layout:
    """A layout.

    `a|b` stands for a column that has one of several names, of which the first goes before the others. `make` finds it
    under the first name, or under `key` where it is `key=a|b`.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[Row], Record]
    uses: tuple[str, ...] = ()  # more columns that it reads, or that repeat what it reads
    fits: Callable[[Columns, Names], bool] = lambda columns, names: True
    labels: Callable[[Row], list[Any]] | None = None  # the labels of a row, which --positive can name

    @property
    def imitates(self) -> bool:
        """Whether its responses become demonstrations, the bad ones too."""
        return self.make in (_completed, _conversation, _instructed)


# Labelled texts


def _label(row: Row) -> list[Any]:
    """One label, or those of several people; Prodigy and doccano write lists."""
    value = row.value("label")
    if not isinstance(value, list):
        return [value]
    if len({repr(one) for one in value}) > 1:
        raise Unusable("several labels")
    return value[:1]


def _labelled(row: Row) -> Record:
    return LabelledText(row.filled("text").strip(), row.grade(_label(row)))  # all sentences of SST-2 end in a space


def _annotated(row: Row) -> Record:
    """Prodigy: the annotator has accepted or rejected the label."""
    verdict = row.word("answer", {"accept": "accept", "reject": "reject", "ignore": "ignore"})
    if verdict == "ignore":
        raise Unusable("ignored by the annotator")
    text, grade = row.filled("text").strip(), row.grade(_label(row))
    return LabelledText(text, grade if verdict == "accept" else 1 - grade)


def _options(row: Row) -> list[Any]:
    """Prodigy: the options that the annotator has chosen."""
    verdict = row.optional("answer")
    if verdict in ("reject", "ignore"):
        raise Unusable("ignored by the annotator" if verdict == "ignore" else "rejected by the annotator")
    return unpacked(row.value("accept"), "accept")[:1]


def _label_studio(row: Row) -> list[Any]:
    found: list[Any] = []
    for annotation in unpacked(row.value("annotations"), "annotations"):
        for result in [] if annotation.get("was_cancelled") else annotation.get("result") or []:
            value = result.get("value") or {}
            found += value.get("choices") or [value[key] for key in ("rating", "selected") if key in value]
    return found


def _fields(row: Row, column: str) -> dict[str, Any]:
    fields = row.value(column)
    if not isinstance(fields, dict):
        raise DataError(f"{column}: must be an object")
    return {str(name).lower(): value for name, value in fields.items()}


def _inside(row: Row, column: str) -> Row:
    """The texts of an annotation tool, which stand inside a column, under the names of a labelled text."""
    fields = _fields(row, column)
    first = next((name for name in (*TEXT.split("|"), *REPLIES.split("|")) if name in fields), None)
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    if first is None and len(texts) != 1:
        raise DataError(f"{column}: no text in it; name one with --data.columns text={column}.NAME,label=...")
    inner = Row({"text": first or texts[0], "prompt": _one_of(QUESTION, fields) or "prompt"}, row.meaning)
    inner.values = fields
    return inner


def _in_tool(column: str, labels: Callable[[Row], list[Any]]) -> Callable[[Row], Record]:
    def make(row: Row) -> Record:
        grade, inner = row.grade(labels(row)), _inside(row, column)
        prompt = inner.prompt("prompt")
        return LabelledText(inner.filled("text") if prompt else inner.filled("text").strip(), grade, prompt)

    return make


def _argilla(row: Row) -> list[Any]:
    """Submitted responses to the one question."""
    responses = _fields(row, "responses")
    if len(responses) > 1:
        names = ", ".join(responses)
        raise DataError(
            f"responses to several questions ({names}): choose one with --data.columns label=responses.NAME"
        )
    return _submitted(next(iter(responses.values()), []))


def _submitted(responses: Any) -> list[Any]:
    if not isinstance(responses, list):
        raise DataError(f"responses {responses!r:.40}: must be a list")
    kept = [one for one in responses if not isinstance(one, dict) or one.get("status", "submitted") == "submitted"]
    return [one.get("value") if isinstance(one, dict) else one for one in kept]


def _flat_argilla(row: Row) -> list[Any]:
    return _submitted(row.value("label.responses") or [])


def _annotation(row: Row) -> list[Any]:
    return [row.value("annotation")]


def _with(labels: Callable[[Row], list[Any]]) -> Callable[[Row], Record]:
    return lambda row: LabelledText(row.filled("text").strip(), row.grade(labels(row)))


# Demonstrations


def _plain(row: Row) -> Record:
    return Demonstration("", row.filled("text"))


def _completed(row: Row) -> Record:
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


def _conversation(row: Row) -> Record:
    messages = _with_system(row, dialogue(row.value("messages"), row.names.get("messages", "messages")))
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if is_blank(messages):
        raise Unusable("no reply of an assistant")
    start = before_reply(messages)
    return Demonstration(messages[:start], messages[start:])


def _judged_conversation(row: Row) -> Record:
    messages = _with_system(row, dialogue(row.value("messages"), "messages"))
    if is_blank(messages[-1:]):
        raise Unusable("no reply of an assistant")
    return LabelledText(messages[-1:], row.grade(_label(row)), messages[:-1])


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


def _instructed(row: Row) -> Record:
    return Demonstration(_asked(row), (Message("assistant", row.filled("response")),))


# Comparisons


def _compared(row: Row, prompt: Text, a: Text, b: Text, choice: Choice, margin: float = 0.0) -> Comparison:
    if a == b:
        raise Unusable("identical responses")
    if is_blank(a) or is_blank(b):
        raise Unusable("empty")
    annotator = row.optional("annotator")
    return Comparison(prompt, a, b, choice, "" if annotator is None else str(annotator), margin)


def _chosen(row: Row) -> Record:
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


def _pair(row: Row) -> Record:
    return _texts(row, "response_a", "response_b", row.word("choice", _CHOICES), abs(row.number("margin") or 0.0))


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


def _helpsteer_2(row: Row) -> Record:
    a, b = row.filled("response_1"), row.filled("response_2")
    return _signed(row, row.prompt("prompt"), a, b, "preference_strength")


def _helpsteer_3(row: Row) -> Record:
    a, b = ((Message("assistant", row.filled(name)),) for name in ("response1", "response2"))
    return _signed(row, dialogue(row.value("context"), "context"), a, b, "overall_preference")


def _safe(row: Row) -> Record:
    return _texts(row, "response_0", "response_1", row.word("better_response_id", {"0": "a", "1": "b"}))


def _stack_exchange(row: Row) -> Record:
    return _answers(row, "response_j", "response_k", "a")


def _openai(row: Row) -> Record:
    asked = dialogue(_fields(row, "input").get("messages"), "input")
    a, b = (dialogue(row.value(name), name) for name in ("preferred_output", "non_preferred_output"))
    return _compared(row, *after(asked, a, b), "a")


def _shp(row: Row) -> Record:
    choice: Choice = row.word("labels", {"1": "a", "0": "b"})
    return _answers(row, "human_ref_a", "human_ref_b", choice, row.number("score_ratio") or 0.0)


def _summaries(row: Row) -> Record:
    info, summaries = _fields(row, "info"), unpacked(row.value("summaries"), "summaries")
    if len(summaries) != 2 or not all(isinstance(s, dict) and isinstance(s.get("text"), str) for s in summaries):
        raise DataError("summaries: must be two objects with a text")
    post, title = (str(info.get(name) or "") for name in ("post", "title"))
    lines = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
    lines += [f"TITLE: {title}"] if title else []
    prompt = "\n\n".join([*lines, f"POST: {post or info.get('article') or ''}", "TL;DR:"])
    choice: Choice = row.word("choice", {"0": "a", "1": "b"})
    return _compared(row, prompt, summaries[0]["text"], summaries[1]["text"], choice)


def _arena(row: Row) -> Record:
    a, b = (dialogue(row.value(name), name) for name in ("conversation_a", "conversation_b"))
    return _compared(row, *after((), a, b), row.word("winner", _WINNERS))


def _arena_table(row: Row) -> Record:
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


def _ranking(row: Row) -> Record:
    responses = unpacked(row.value("responses"), "responses")
    return _ranked(row, row.prompt("prompt"), responses, unpacked(row.value("rank"), "rank"))


def _ranked_list(row: Row) -> Record:
    responses = unpacked(row.value("ranked_responses"), "ranked_responses")
    return _ranked(row, row.prompt("prompt"), responses, list(range(len(responses))))


def _ranked_objects(column: str, text: str, rank: str, sign: int) -> Callable[[Row], Record]:
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


def _judged(row: Row) -> Record:
    """A response and its label, which says whether it is good."""
    found = _completed(row)
    assert isinstance(found, Demonstration)
    return LabelledText(found.response, row.grade(_label(row)), found.prompt)


def _one_of(names: str, columns: Mapping[str, Any]) -> str | None:
    return next((name for name in names.split("|") if name in columns), None)


def _lists(*names: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: all(columns[at[name]].lists for name in names)


def _not_lists(name: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: not columns[at[name]].lists


def _verdicts(columns: Columns, at: Names) -> bool:
    """Whether an `answer` is Prodigy's; otherwise the column is one of other texts."""
    return columns[at["answer"]].values <= {"accept", "reject", "ignore"}


def _objects(*names: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: all(columns[at[name]].kinds == {dict} for name in names)


def _only_text(columns: Columns, at: Names) -> bool:
    return all(_HARMLESS.fullmatch(name) for name in columns if name != at["text"])


LAYOUTS = (
    Layout("labelled texts", (TEXT, LABEL), _labelled, ("annotator",), _not_lists("text"), _label),
    Layout("labelled texts of Prodigy", (TEXT, LABEL, "answer"), _annotated, (), _verdicts, _label),
    Layout("options of Prodigy", ("text", "options", "accept"), _with(_options), ("answer",), labels=_options),
    Layout(
        "tasks of Label Studio",
        ("data", "annotations"),
        _in_tool("data", _label_studio),
        ("predictions",),
        _objects("data"),
        _label_studio,
    ),
    Layout(
        "records of Argilla",
        ("fields", "responses"),
        _in_tool("fields", _argilla),
        ("suggestions", "status"),
        _objects("fields"),
        _argilla,
    ),
    Layout(
        "labelled texts of Argilla",
        (TEXT, "label.responses"),
        _with(_flat_argilla),
        ("label.responses.users", "label.responses.status", "label.suggestion", "status"),
        labels=_flat_argilla,
    ),
    Layout("annotated texts", (TEXT, "annotation"), _with(_annotation), ("inputs", "prediction"), labels=_annotation),
    Layout("plain texts", ("text|content",), _plain, fits=_only_text),
    Layout("conversations", (CHAT,), _conversation, (SYSTEM, "prompt"), _lists("messages")),
    Layout(
        "judged conversations", (CHAT, "label"), _judged_conversation, (SYSTEM, "prompt"), _lists("messages"), _label
    ),
    Layout("prompts and responses", ("prompt", "response|completion"), _completed, (SYSTEM, "messages")),
    Layout(
        "judged responses",
        ("prompt", "response|completion", "label|rating|stars|score|helpfulness"),
        _judged,
        (SYSTEM, "messages", "correctness", "coherence", "complexity", "verbosity"),
        labels=_label,
    ),
    Layout(
        "instructions and responses",
        ("prompt=instruction", REPLIES),
        _instructed,
        ("input|context", SYSTEM, "text"),
    ),
    Layout("questions and answers", ("prompt=question|query|input", REPLIES), _instructed, ("input=context", SYSTEM)),
    Layout(
        "chosen and rejected responses",
        ("chosen", "rejected"),
        _chosen,
        (
            *(QUESTION, "input|context", SYSTEM, "messages", "annotator", "margin"),
            *("score_chosen|chosen_score|chosen-rating", "score_rejected|rejected_score|rejected-rating"),
        ),
    ),
    Layout(
        "pairs of responses and a choice",
        ("response_a", "response_b", "choice"),
        _pair,
        ("prompt", "annotator", "margin"),
    ),
    Layout("pairs of SafeRLHF", ("prompt", "response_0", "response_1", "better_response_id"), _safe),
    Layout("pairs of SHP", ("prompt=history", "human_ref_a", "human_ref_b", "labels"), _shp, ("score_ratio",)),
    Layout("pairs of StackExchange", ("prompt=question", "response_j", "response_k"), _stack_exchange),
    Layout("pairs of summaries", ("info", "summaries", "choice"), _summaries, ("annotator=worker",), _objects("info")),
    Layout("preferences of OpenAI", ("input", "preferred_output", "non_preferred_output"), _openai),
    Layout("battles of an arena", ("conversation_a", "conversation_b", "winner"), _arena, ("annotator=judge",)),
    Layout(
        "battles of an arena in a table",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        _arena_table,
        ("winner_tie",),
    ),
    Layout("preferences of HelpSteer 2", ("prompt", "response_1", "response_2", "preference_strength"), _helpsteer_2),
    Layout("preferences of HelpSteer 3", ("context", "response1", "response2", "overall_preference"), _helpsteer_3),
    Layout("ranked responses", ("prompt", "responses", "rank|ranks|ranking"), _ranking, ("annotator",)),
    Layout("responses from best to worst", ("prompt", "ranked_responses"), _ranked_list, ("annotator",)),
    Layout("ranked answers of Nectar", ("prompt", "answers"), _ranked_objects("answers", "answer", "rank", 1)),
    Layout(
        "scored completions of UltraFeedback",
        ("prompt=instruction", "completions"),
        _ranked_objects("completions", "response", "overall_score", -1),
    ),
)
