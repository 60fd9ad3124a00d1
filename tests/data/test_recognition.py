from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plaudit.data.recognition import meanings, recognise, records, refusal
from plaudit.data.tables import Table
from plaudit.records import Comparison, Demonstration, LabelledText

Refused = Callable[[Callable[[], object]], str]


def read(*rows: dict[str, Any], columns: str = "", positive: str = "") -> tuple[list[Any], dict[str, int]]:
    table = Table("t.tsv", "line", list(enumerate(rows, start=2)))
    named = dict(pair.split("=") for pair in columns.split(",") if pair)
    one = recognise(table.renamed(named), list(named))
    if one is None:
        raise refusal(table)
    found: list[Any] = []
    _, reading = records(one, meanings([one], positive), "training", found.extend)
    return found, reading.dropped


@pytest.mark.parametrize("column", ["text", "sentence", "review"])
def test_labelled_texts(column: str) -> None:
    assert read({"idx": 0, column: " a film ", "label": "1"})[0] == [LabelledText("a film", 1)]


@pytest.mark.parametrize("given", ["0", 0, " 0.0", False, "negative", "neg", "False"])
def test_negative_labels(given: Any) -> None:
    assert read({"text": "x", "label": given})[0] == [LabelledText("x", 0)]


@pytest.mark.parametrize("given", ["1", 1, 1.0, True, "Positive", "POS", "true"])
def test_positive_labels(given: Any) -> None:
    assert read({"text": "x", "label": given})[0] == [LabelledText("x", 1)]


@pytest.mark.parametrize("given", ["2", 2, "great", float("inf"), {"a": 1}, "-2", "x" * 1_000_000])
def test_other_labels_are_refused_with_the_line(given: Any, refused: Refused) -> None:
    message = refused(lambda: read({"text": "x", "label": 1}, {"text": "y", "label": given}))
    assert message.startswith("t.tsv, line 3: label ")
    assert repr(given) in message or len(repr(given)) > 100


def test_unlabelled_and_empty_rows_are_counted() -> None:
    rows = [{"text": "kept", "label": "0"}, {"text": "x", "label": "-1"}, {"text": "y", "label": -1}]
    rows += [{"text": "z", "label": missing} for missing in ("", " ", None, float("nan"), "NaN")]
    rows += [{"text": "  ", "label": "1"}, {"text": None, "label": "1"}]
    assert read(*rows) == ([LabelledText("kept", 0)], {"unlabelled": 7, "empty": 2})


@pytest.mark.parametrize("column", ["response", "completion"])
def test_demonstrations(column: str) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Why?", column: " Because. "},
        {"prompt": None, column: "So."},
        {"prompt": "Eh?", column: " "},
    ]
    expected = [Demonstration("Why?", " Because. "), Demonstration("", "So.")]
    assert read(*rows) == (expected, {"empty": 1})


def test_responses_with_labels_are_judged_and_not_imitated() -> None:
    rows = [{"prompt": "p", "completion": "c", "label": False}, {"prompt": "p", "completion": "d", "label": True}]
    assert read(*rows)[0] == [LabelledText("c", 0, "p"), LabelledText("d", 1, "p")]


def test_chosen_and_rejected() -> None:
    rows = [{"chosen": "good", "rejected": "bad"}, {"prompt": "p", "chosen": "good", "rejected": "bad"}]
    assert read(*rows)[0] == [Comparison("", "good", "bad", "a"), Comparison("p", "good", "bad", "a")]


def test_choices() -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y"}
    rows = [row | {"choice": "a"}, row | {"choice": "B", "annotator": 7}, row | {"choice": "tie", "annotator": "ann"}]
    assert read(*rows)[0] == [
        Comparison("p", "x", "y", "a"),
        Comparison("p", "x", "y", "b", "7"),
        Comparison("p", "x", "y", "tie", "ann"),
    ]


def test_comparisons_of_identical_or_empty_responses_are_counted() -> None:
    rows = [{"chosen": "same", "rejected": "same"}, {"chosen": "x", "rejected": ""}]
    assert read(*rows) == ([], {"identical responses": 1, "empty": 1})


def test_other_choices_are_refused(refused: Refused) -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "choice": "c"}
    assert refused(lambda: read(row)) == "t.tsv, line 2: choice 'c': must be a, b or tie"


def test_unknown_columns_are_refused_with_the_known_ones(refused: Refused) -> None:
    message = refused(lambda: read({"remark": "x", "grade": "5"}))
    assert "'remark', 'grade'" in message
    assert "--data.columns text=NAME,label=NAME" in message
    assert "text or review, alone or with label" in message


def test_a_missing_label_column_is_named(refused: Refused) -> None:
    assert "no column 'label' beside 'sentence'" in refused(lambda: read({"index": "0", "sentence": "x"}))


def test_the_error_for_a_file_without_a_header_is_short(refused: Refused) -> None:
    refused(lambda: read(dict.fromkeys([f"{i} {'long ' * 1000}" for i in range(100)], "")))


def test_a_row_without_a_needed_column_is_refused(refused: Refused) -> None:
    message = refused(lambda: read({"text": "x", "label": 1}, {"label": 1, "txt": "y"}))
    assert message == "t.tsv, line 3: no 'text'; found 'label', 'txt'"


@pytest.mark.parametrize("value", [5, ["x"], {"role": "user", "content": "x"}])
def test_values_other_than_text_are_refused(value: Any, refused: Refused) -> None:
    message = refused(lambda: read({"prompt": "p", "chosen": value, "rejected": "x"}))
    assert message.startswith("t.tsv, line 2: chosen ")


def test_half_of_a_surrogate_pair_is_refused(refused: Refused) -> None:
    assert "surrogate" in refused(lambda: read({"text": "x \ud800", "label": 1}))


@pytest.mark.parametrize("missing", ["text", "label"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_lacks_a_column_is_named_wherever_it_stands(missing: str, place: int, refused: Refused) -> None:
    rows: list[dict[str, Any]] = [{"text": f"film {i}", "label": 1, "note": i} for i in range(3)]
    del rows[place][missing]
    assert refused(lambda: read(*rows)).startswith(f"t.tsv, line {place + 2}: no '{missing}'; found ")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_label_of_one_response_is_enough_to_demand_those_of_the_others(place: int, refused: Refused) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"p {i}", "completion": "c"} for i in range(3)]
    rows[place]["label"] = False
    assert "no 'label'" in refused(lambda: read(*rows))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("fluency", [0, 4, 4, 1]),
        ("quality", ["1", "2", "2", "5"]),
        ("good", [True, False, True, True]),
        ("reward", [0.13, -2.5, 1.75, 0.5]),
    ],
)
def test_ratings_of_demonstrations_are_refused_by_name(name: str, values: list[Any], refused: Refused) -> None:
    rows = [{"prompt": f"p {i}", "response": f"r {i}", name: value} for i, value in enumerate(values)]
    assert f"do not go with '{name}'" in refused(lambda: read(*rows))


def test_columns_that_say_nothing_about_a_response_are_allowed() -> None:
    more = [{"id": 1, "user_id": 3, "source": "web", "n": 1}, {"id": 2, "user_id": 3, "source": "web", "n": 1}]
    more += [{"id": 3, "user_id": 4, "source": "book", "n": 1}]
    rows = [{"prompt": f"p {i}", "response": "r", **extra} for i, extra in enumerate(more)]
    assert len(read(*rows)[0]) == 3


@pytest.mark.parametrize("name", ["context", "history"])
@pytest.mark.parametrize(
    "columns", [("response_a", "response_b", "choice"), ("prompt", "response"), ("prompt", "ranked_responses")]
)
def test_a_question_in_a_column_that_is_not_read_is_refused_by_name(
    name: str, columns: tuple[str, ...], refused: Refused
) -> None:
    values = {"choice": "a", "ranked_responses": ["good", "bad"]}
    row = {column: values.get(column, f"{column} text") for column in columns}
    assert f"column '{name}' is not read" in refused(lambda: read(row, row | {name: "Why?"}))
    assert len(read(row, row | {name: ""})[0]) == 2


@pytest.mark.parametrize("answer", ["reject", "ignore"])
def test_annotations_that_reject_are_refused_by_name_where_they_are_not_read(answer: str, refused: Refused) -> None:
    rows = [{"prompt": "x", "response": "y", "answer": "accept"}, {"prompt": "y", "response": "y"}]
    assert len(read(*rows)[0]) == 2
    assert "column 'answer'" in refused(lambda: read(*rows, {"prompt": "z", "response": "y", "answer": answer}))


def test_columns_of_two_kinds_are_refused(refused: Refused) -> None:
    rows = [{"text": "x", "label": 1}, {"prompt": "p", "chosen": "good", "rejected": "bad"}]
    message = refused(lambda: read(*rows))
    assert "(text and label; chosen and rejected)" in message
    assert (
        "choose with --data.columns text=text,label=label or --data.columns chosen=chosen,rejected=rejected" in message
    )
    both = rows[0] | rows[1]
    assert read(both, columns="text=text,label=label")[0] == [LabelledText("x", 1)]
    assert read(both, columns="chosen=chosen,rejected=rejected")[0] == [Comparison("p", "good", "bad", "a")]


def test_the_dialogue_of_a_pair_is_its_prompt() -> None:
    """As in HH-RLHF: chosen and rejected begin with the dialogue so far."""
    turns = "\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    longer = f"{turns} No.\n\nHuman: Oh.\n\nAssistant: Yes."
    assert read({"chosen": f"{turns} Because.", "rejected": longer})[0] == [
        Comparison(turns, " Because.", longer.removeprefix(turns), "a")
    ]
    assert (
        read({"chosen": "\n\nHuman: Hi!\n\nAssistant: A", "rejected": "\n\nHuman: Ho!\n\nAssistant: A"})[0][0].prompt
        == ""
    )


def test_columns_that_could_each_be_the_text_are_named_with_the_flag(refused: Refused) -> None:
    row = {"review": "x", "content": "y", "label": 1}
    assert "--data.columns text=review or --data.columns text=content" in refused(lambda: read(row))
    assert read(row, columns="text=content")[0] == [LabelledText("y", 1)]


def test_columns_are_renamed_also_inside_objects() -> None:
    row = {"id": 3, "body": {"english": "x"}, "Stars": 5, "stars": 4}
    assert read(row, columns="text=body.english,label=stars", positive=">=4")[0] == [LabelledText("x", 1)]


def test_all_columns_that_the_user_names_leave_the_others_out() -> None:
    rows = [{"prompt": f"p {i}", "response": "r", "quality": i % 2, "context": "c"} for i in range(4)]
    assert len(read(*rows, columns="prompt=prompt,response=response")[0]) == 4
    assert read(*rows, columns="prompt=prompt,response=response,label=quality")[0][:2] == [
        LabelledText("r", 0, "p 0"),
        LabelledText("r", 1, "p 1"),
    ]


def test_columns_that_are_not_there_are_refused_by_name(refused: Refused) -> None:
    message = refused(lambda: read({"body": "x", "label": 1}, columns="text=boddy"))
    assert "--data.columns gives no 'text' here; found 'body', 'label'" in message
