"""Published layouts: which columns they have, and how a row becomes records. A new layout is one entry of LAYOUTS."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.data import opinions, replies
from plaudit.data.columns import Row
from plaudit.data.hashed import Record
from plaudit.data.opinions import CHAT, LABEL, QUESTION, REPLIES, SYSTEM, TEXT
from plaudit.data.tables import Column

Columns = Mapping[str, Column]
Names = Mapping[str, str]  # columns of a table by the names that a layout uses

_HARMLESS = re.compile(r"(_*id|.*[_-]id|idx|index|url|source|title|date|timestamp|meta|metadata|lang|language|split|)")


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
    alone: bool = False  # whether other columns, but for identifiers and the like, speak against it

    def admits(self, columns: Columns, at: Names, chosen: Sequence[str] = ()) -> bool:
        """Whether a table with these columns can have this layout. `chosen` are the columns that the user has named."""
        others = [name for name in columns if name not in at.values() and not _HARMLESS.fullmatch(name)]
        named = set(at.values()) <= set(chosen)
        return self.fits(columns, at) and (not self.alone or not others or named)

    @property
    def imitates(self) -> bool:
        """Whether nobody has judged its responses: they all become demonstrations, the bad ones too."""
        return self.make in (
            *(replies.plain, replies.completed, replies.conversation, replies.instructed),
            *(replies.prompt_alone, replies.question_alone),
        )


def _lists(*names: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: all(columns[at[name]].lists for name in names)


def _not_lists(name: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: not columns[at[name]].lists


def _verdicts(columns: Columns, at: Names) -> bool:
    """Whether an `answer` is Prodigy's; otherwise the column is one of other texts."""
    return columns[at["answer"]].values <= {"accept", "reject", "ignore"}


def _objects(*names: str) -> Callable[[Columns, Names], bool]:
    return lambda columns, at: all(columns[at[name]].kinds == {dict} for name in names)


LAYOUTS = (
    Layout("labelled texts", (TEXT, LABEL), opinions.labelled, ("annotator",), _not_lists("text"), opinions.label),
    Layout("labelled texts of Prodigy", (TEXT, LABEL, "answer"), opinions.annotated, (), _verdicts, opinions.label),
    Layout(
        "options of Prodigy",
        ("text", "options", "accept"),
        opinions.simply(opinions.options),
        ("answer",),
        labels=opinions.options,
    ),
    Layout(
        "tasks of Label Studio",
        ("data", "annotations"),
        opinions.in_tool("data", opinions.label_studio),
        ("predictions",),
        _objects("data"),
        opinions.label_studio,
    ),
    Layout(
        "records of Argilla",
        ("fields", "responses"),
        opinions.in_tool("fields", opinions.argilla),
        ("suggestions", "status"),
        _objects("fields"),
        opinions.argilla,
    ),
    Layout(
        "labelled texts of Argilla",
        (TEXT, "label.responses"),
        opinions.simply(opinions.flat_argilla),
        ("label.responses.users", "label.responses.status", "label.suggestion", "status"),
        labels=opinions.flat_argilla,
    ),
    Layout(
        "annotated texts",
        (TEXT, "annotation"),
        opinions.simply(opinions.annotation),
        ("inputs", "prediction"),
        labels=opinions.annotation,
    ),
    Layout("plain texts", ("text|content",), replies.plain, alone=True),
    Layout("conversations", (CHAT,), replies.conversation, (SYSTEM, "prompt"), _lists("messages")),
    Layout(
        "judged conversations",
        (CHAT, "label"),
        replies.judged_conversation,
        (SYSTEM, "prompt"),
        _lists("messages"),
        opinions.label,
    ),
    Layout("prompts and responses", ("prompt", "response|completion"), replies.completed, (SYSTEM, "messages")),
    Layout("prompts", ("prompt",), replies.prompt_alone, (SYSTEM,), alone=True),
    Layout("questions", ("prompt=question|instruction|query",), replies.question_alone, (SYSTEM,), alone=True),
    Layout(
        "judged responses",
        ("prompt", "response|completion", "label|rating|stars|score|helpfulness"),
        replies.judged,
        (SYSTEM, "messages", "correctness", "coherence", "complexity", "verbosity"),
        labels=opinions.label,
    ),
    Layout(
        "instructions and responses",
        ("prompt=instruction", REPLIES),
        replies.instructed,
        ("input|context", SYSTEM, "text"),
    ),
    Layout(
        "questions and answers", ("prompt=question|query|input", REPLIES), replies.instructed, ("input=context", SYSTEM)
    ),
    Layout(
        "chosen and rejected responses",
        ("chosen", "rejected"),
        replies.chosen,
        (
            *(QUESTION, "input|context", SYSTEM, "messages", "annotator", "margin"),
            *("score_chosen|chosen_score|chosen-rating", "score_rejected|rejected_score|rejected-rating"),
        ),
    ),
    Layout(
        "pairs of responses and a choice",
        ("response_a", "response_b", "choice"),
        replies.pair,
        ("prompt", "annotator", "margin"),
    ),
    Layout(
        "votes of an annotation tool",
        ("response_a", "response_b", "choice", replies.UNUSED),
        replies.vote,
        ("prompt", "annotator", "margin"),
    ),
    Layout("pairs of SafeRLHF", ("prompt", "response_0", "response_1", "better_response_id"), replies.safe),
    Layout("pairs of SHP", ("prompt=history", "human_ref_a", "human_ref_b", "labels"), replies.shp, ("score_ratio",)),
    Layout("pairs of StackExchange", ("prompt=question", "response_j", "response_k"), replies.stack_exchange),
    Layout(
        "pairs of summaries",
        ("info", "summaries", "choice"),
        replies.summaries,
        ("annotator=worker",),
        _objects("info"),
    ),
    Layout("preferences of OpenAI", ("input", "preferred_output", "non_preferred_output"), replies.openai),
    Layout("battles of an arena", ("conversation_a", "conversation_b", "winner"), replies.arena, ("annotator=judge",)),
    Layout(
        "battles of an arena in a table",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        replies.arena_table,
        ("winner_tie",),
    ),
    Layout(
        "preferences of HelpSteer 2", ("prompt", "response_1", "response_2", "preference_strength"), replies.helpsteer_2
    ),
    Layout(
        "preferences of HelpSteer 3", ("context", "response1", "response2", "overall_preference"), replies.helpsteer_3
    ),
    Layout("ranked responses", ("prompt", "responses", "rank|ranks|ranking"), replies.ranking, ("annotator",)),
    Layout("responses from best to worst", ("prompt", "ranked_responses"), replies.ranked_list, ("annotator",)),
    Layout("ranked answers of Nectar", ("prompt", "answers"), replies.ranked_objects("answers", "answer", "rank", 1)),
    Layout(
        "scored completions of UltraFeedback",
        ("prompt=instruction", "completions"),
        replies.ranked_objects("completions", "response", "overall_score", -1),
    ),
)
