"""Comparisons in the exports of Argilla (records, or flat tables) and Label Studio (tasks, or flat tables)."""

from __future__ import annotations

import itertools
import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from plaudit.data.columns import Unusable, dialogue, text
from plaudit.data.hashed import Choice
from plaudit.data.opinions import CHAT, QUESTION
from plaudit.data.replies import UNUSED
from plaudit.data.tables import Table, Values, shown
from plaudit.errors import DataError
from plaudit.records import Comparison, Text

_PROMPTS = (*QUESTION.split("|"), "input", "context", *CHAT.split("|"))
_FIRST, _SECOND = {"left", "first", "a", "1", "model_a"}, {"right", "second", "b", "2", "model_b"}
_TIES = {"tie", "equal", "same", "both", "neither", "none", "draw", "both_bad", "both bad", "both good"}
_OF_LABEL_STUDIO = {"annotator", "annotation_id", "lead_time"}  # columns of its flat exports
_NOTES = {*_OF_LABEL_STUDIO, "id", "created_at", "updated_at", "status", "metadata"}
_LIKELY = re.compile(
    r"response|answer|completion|output|reply|text|candidate|generation|chosen|rejected|left|right|option"
)
_RESPONSES, _USERS, _STATUS = ".responses", ".responses.users", ".responses.status"  # of Argilla's flat exports


_PEEK = 100  # rows of which one must be a comparison


@dataclass(frozen=True)
class _Vote:
    annotator: str
    value: Any  # the name or side of a response, a tie, or a ranking


def compared(table: Table) -> Table | None:
    """The same table with a row for each vote, for the layout "votes of an annotation tool".

    None if it is no such export, or one whose labels are about single texts.
    """
    for _, values in itertools.islice(table.rows, _PEEK):
        try:
            found = comparisons(values)
        except (Unusable, DataError):  # nobody has answered, or the answers are labels
            continue
        return None if found is None else replace(table, rows=_Votes(table))
    return None


@dataclass(frozen=True)
class _Votes:
    """The votes of a table: a row without one says why."""

    table: Table

    def __iter__(self) -> Iterator[tuple[int, Values]]:
        nothing: Values = dict.fromkeys(("prompt", "response_a", "response_b", "choice", "annotator"))
        for number, values in self.table.rows:
            try:
                found = comparisons(values)
            except Unusable as reason:
                yield number, nothing | {UNUSED: str(reason)}
                continue
            except DataError as error:
                raise DataError(f"{self.table.name}, {self.table.unit} {number}: {error}") from None
            if found is None:
                raise DataError(f"{self.table.name}, {self.table.unit} {number}: not as the rows before")
            for one in found:
                messages = one.prompt if isinstance(one.prompt, str) else [*map(asdict, one.prompt)]
                yield number, vars(one) | {"prompt": messages, UNUSED: None}


def comparisons(row: Values) -> list[Comparison] | None:
    """The comparisons in a row, one for each annotator; None if the row is not of these tools.

    Raises:
        Unusable: nobody has answered, or a response is empty.
        DataError: the texts or an answer cannot be understood.
    """
    if isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict):
        fields, votes = row["fields"], [*_argilla(row["responses"])]
    elif isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):
        fields, votes = row["data"], [*_label_studio(row["annotations"])]
    elif questions := [name.removesuffix(_RESPONSES) for name in row if name.endswith(_RESPONSES)]:
        fields = {name: value for name, value in row.items() if "." not in name and name not in _NOTES}
        votes = [*_flat_argilla(row, _only(questions))]
    elif questions := [name for name, value in row.items() if _is_answered(value)]:
        fields = {name: value for name, value in row.items() if isinstance(value, str) and name not in _NOTES}
        votes = [*_argilla({name: row[name] for name in questions})]
    elif set(row) >= _OF_LABEL_STUDIO:
        others = {name: value for name, value in row.items() if name not in _PROMPTS}
        answers = {name: found for name, value in others.items() if (found := _selected(value)) is not None}
        fields = {name: value for name, value in row.items() if name not in {*_NOTES, *answers}}
        votes = [_Vote(str(row["annotator"]), value) for value in answers.values()]
    else:
        return None
    prompt, responses = _texts(fields)
    found = [comparison for vote in votes for comparison in _of_vote(prompt, responses, vote)]
    if not found:
        raise Unusable("unlabelled")
    return found


def _texts(fields: Values) -> tuple[Text, dict[str, str]]:
    """The prompt, and the responses by name, the left one first."""
    names = {str(name).lower(): value for name, value in fields.items()}
    asked = next((name for name in _PROMPTS if names.get(name)), None)
    prompt: Text = ""
    if asked:
        value = names[asked]
        prompt = dialogue(value, asked) if isinstance(value, list) else text(value, asked)
    listed = next((value for name, value in names.items() if name != asked and _is_listed(value)), None)
    if listed is not None:
        responses = {str(one["id"]): _body(one) for one in listed}
    else:
        others = {name: value for name, value in names.items() if name not in _PROMPTS and isinstance(value, str)}
        responses = {name: others[name] for name in sorted(others)}  # answer1 and answer2, left and right, a and b
    if len(responses) > 2 and len(likely := {name: responses[name] for name in responses if _LIKELY.search(name)}) > 1:
        responses = likely
    if len(responses) < 2:
        raise DataError(f"two responses are needed beside the prompt; found {shown(fields)}")
    if not all(response.strip() for response in responses.values()):
        raise Unusable("empty")
    return prompt, responses


def _is_answered(value: Any) -> bool:
    """Whether this is a column with the responses to a question, as Argilla's first version writes them."""
    if isinstance(value, dict):
        return {"user_id", "value", "status"} <= set(value)
    return isinstance(value, list) and bool(value) and all(map(_is_answered, value))


def _is_listed(value: Any) -> bool:
    """Whether these are the items that Label Studio's Ranker sorts."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "id" in one for one in value)


def _body(item: Values) -> str:
    found = next((item[name] for name in ("body", "text", "html", "title") if item.get(name)), None)
    return text(found, "items")


def _of_vote(prompt: Text, responses: dict[str, str], vote: _Vote) -> Iterator[Comparison]:
    """What one annotator says about each two of the responses."""
    if isinstance(vote.value, dict):  # ranks by name
        unknown = [name for name in vote.value if _named(responses, name) is None]
        if unknown:
            raise DataError(f"{reprlib.repr(unknown[0])}: must name one of the responses {shown(responses)}")
        ranks = {_named(responses, name): rank for name, rank in vote.value.items()}
        pairs = [(a, b, ranks[a], ranks[b]) for a, b in itertools.combinations(responses, 2) if {a, b} <= set(ranks)]
    else:
        word = str(vote.value).strip().lower()
        chosen = _named(responses, word)
        if len(responses) != 2 or (chosen is None and word not in _TIES):
            raise DataError(f"{reprlib.repr(vote.value)}: must be one of the two responses, of {shown(responses)}")
        a, b = responses
        pairs = [(a, b, int(chosen == b), int(chosen == a))]
    for a, b, rank_a, rank_b in pairs:
        choice: Choice = "tie" if rank_a == rank_b else "a" if rank_a < rank_b else "b"
        yield Comparison(prompt, responses[a], responses[b], choice, vote.annotator)


def _named(responses: Iterable[str], value: Any) -> str | None:
    """The response that a name or a side stands for."""
    word, names = str(value).strip().lower(), list(responses)
    plain = {re.sub(r"[\W_]", "", name): name for name in names}
    if word in names or re.sub(r"[\W_]", "", word) in plain:
        return word if word in names else plain[re.sub(r"[\W_]", "", word)]
    return names[0] if word in _FIRST else names[1] if word in _SECOND else None


def _argilla(responses: Values) -> Iterator[_Vote]:
    """Responses by question, of which one compares: lists of objects, or objects with lists."""
    if not responses:
        return
    answers = responses[_only([*responses])]
    if isinstance(answers, dict):
        answers = [dict(zip(answers, values, strict=True)) for values in zip(*answers.values(), strict=True)]
    for one in answers if isinstance(answers, list) else []:
        if isinstance(one, dict) and one.get("status", "submitted") in (None, "submitted"):
            yield _Vote(str(one.get("user_id") or ""), _ranks(one.get("value")))


def _flat_argilla(row: Values, question: str) -> Iterator[_Vote]:
    values = row.get(question + _RESPONSES) or []
    users, statuses = (row.get(question + name) or [None] * len(values) for name in (_USERS, _STATUS))
    for value, user, status in zip(values, users, statuses, strict=True):
        if status in (None, "submitted"):
            yield _Vote(str(user or ""), _ranks(value))


def _only(questions: list[str]) -> str:
    """The question that compares: the only one, or the only one whose name says so."""
    likely = [name for name in questions if re.search(r"prefer|rank|choice|chosen|best|better|compar", name)]
    if len(questions) == 1 or len(likely) == 1:
        return questions[0] if len(questions) == 1 else likely[0]
    raise DataError(f"responses to several questions ({shown(questions)}): export the one that compares")


def _ranks(value: Any) -> Any:
    """A ranking as ranks by name: of a list of names, of objects with rank and value, or of two columns."""
    if isinstance(value, dict) and {"rank", "value"} <= set(value):
        return dict(zip(value["value"], value["rank"], strict=True))
    if isinstance(value, list):
        if all(isinstance(one, dict) for one in value):
            return {str(one.get("value")): one.get("rank") or 0 for one in value}
        return {str(name): rank for rank, name in enumerate(value)}
    return value


def _label_studio(annotations: list[Any]) -> Iterator[_Vote]:
    """Tasks: what each annotator has selected, chosen or ranked."""
    for annotation in annotations:
        by = annotation.get("completed_by", "")
        annotator = str(by.get("email") or by.get("id", "") if isinstance(by, dict) else by)
        for result in [] if annotation.get("was_cancelled") else annotation.get("result") or []:
            value = result.get("value") or {}
            if "selected" in value or result.get("type") == "choices":
                yield _Vote(annotator, value.get("selected") or next(iter(value.get("choices") or []), None))
            elif isinstance(value.get("ranker"), dict):
                names = next((names for names in value["ranker"].values() if isinstance(names, list)), [])
                yield _Vote(annotator, _ranks(names))


def _selected(value: Any) -> Any:
    """The answer in a column of a flat export: a side, or JSON that has `selected`."""
    if isinstance(value, str) and value.strip().startswith(("[{", "{")):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        return value.get("selected")
    return value if str(value).strip().lower() in {*_FIRST, *_SECOND, *_TIES} - {"1", "2"} else None
