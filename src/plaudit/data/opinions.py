"""Rows of published layouts to labelled texts: what people, and annotation tools, say about a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plaudit.data.columns import Row, Unusable, unpacked
from plaudit.data.hashed import Record
from plaudit.errors import DataError
from plaudit.records import LabelledText

# Names of columns; `a|b` stands for either.
TEXT = "text|sentence|review|content|comment|tweet|phrase|review_text|reviewtext|review_body"
LABEL = "label|sentiment|polarity|target|class|stars|star_rating|rating|overall|labels"
REPLIES = "response|completion|output|answer"
SYSTEM = "system|system_prompt"
QUESTION = "prompt|question|instruction|query"
CHAT = "messages|conversations|conversation|dialogue|dialog"


def label(row: Row) -> list[Any]:
    """One label, or those of several people; Prodigy and doccano write lists."""
    value = row.value("label")
    if not isinstance(value, list):
        return [value]
    if len({repr(one) for one in value}) > 1:
        raise Unusable("several labels")
    return value[:1]


def labelled(row: Row) -> Record:
    """A text and its label."""
    return LabelledText(row.filled("text").strip(), row.grade(label(row)))  # all sentences of SST-2 end in a space


def annotated(row: Row) -> Record:
    """Prodigy: the annotator has accepted or rejected the label."""
    verdict = row.word("answer", {"accept": 1, "reject": 0, "ignore": "ignore"}) if row.has("answer") else 1
    if verdict == "ignore":
        raise Unusable("ignored by the annotator")
    text, grade = row.filled("text").strip(), row.grade(label(row))
    return LabelledText(text, grade if verdict else 1 - grade)


def options(row: Row) -> list[Any]:
    """Prodigy: the options that the annotator has chosen."""
    verdict = row.optional("answer")
    if verdict in ("reject", "ignore"):
        raise Unusable("ignored by the annotator" if verdict == "ignore" else "rejected by the annotator")
    return unpacked(row.value("accept"), "accept")[:1]


def label_studio(row: Row) -> list[Any]:
    """Label Studio: what each annotator has chosen."""
    found: list[Any] = []
    for annotation in unpacked(row.value("annotations"), "annotations"):
        for result in [] if annotation.get("was_cancelled") else annotation.get("result") or []:
            value = result.get("value") or {}
            found += value.get("choices") or [value[key] for key in ("rating", "selected") if key in value]
    return found


def fields(row: Row, column: str) -> dict[str, Any]:
    """The object in a column, with names in lower case."""
    fields = row.value(column)
    if not isinstance(fields, dict):
        raise DataError(f"{column}: must be an object")
    return {str(name).lower(): value for name, value in fields.items()}


def _inside(row: Row, column: str) -> Row:
    """The texts of an annotation tool, which stand inside a column, under the names of a labelled text."""
    inside = fields(row, column)
    first = next((name for name in (*TEXT.split("|"), *REPLIES.split("|")) if name in inside), None)
    texts = [name for name, value in inside.items() if isinstance(value, str)]
    if first is None and len(texts) != 1:
        raise DataError(f"{column}: no text in it; name one with --data.columns text={column}.NAME,label=...")
    inner = Row({"text": first or texts[0], "prompt": _one_of(QUESTION, inside) or "prompt"}, row.meaning)
    inner.values = inside
    return inner


def in_tool(column: str, labels: Callable[[Row], list[Any]]) -> Callable[[Row], Record]:
    """A labelled text, or a labelled response to a prompt, inside a column of an annotation tool."""

    def make(row: Row) -> Record:
        grade, inner = row.grade(labels(row)), _inside(row, column)
        prompt = inner.prompt("prompt")
        return LabelledText(inner.filled("text") if prompt else inner.filled("text").strip(), grade, prompt)

    return make


def argilla(row: Row) -> list[Any]:
    """Submitted responses to the one question."""
    responses = fields(row, "responses")
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


def flat_argilla(row: Row) -> list[Any]:
    """Argilla's responses as a data set of the hub has them."""
    return _submitted(row.value("label.responses") or [])


def annotation(row: Row) -> list[Any]:
    """The annotation of Argilla's first version."""
    return [row.value("annotation")]


def simply(labels: Callable[[Row], list[Any]]) -> Callable[[Row], Record]:
    """A labelled text with these labels."""
    return lambda row: LabelledText(row.filled("text").strip(), row.grade(labels(row)))


def _one_of(names: str, columns: Mapping[str, Any]) -> str | None:
    return next((name for name in names.split("|") if name in columns), None)
