"""Exports of Argilla and Label Studio, in the forms that their versions write."""

import csv
import json
import sqlite3

import pytest

from plaudit.cli import main
from plaudit.data import formats
from plaudit.data.annotation_tools import compared, comparisons
from plaudit.data.columns import Unusable
from plaudit.data.corpus import load
from plaudit.data.recognition import meanings, recognise, records
from plaudit.errors import DataError
from plaudit.records import Comparison, Message

TEXTS = {"prompt": "Name a colour.", "response1": "Red.", "response2": "Blue, of course."}


def votes(row):
    """(choice, annotator) of each comparison in a row, which must all be about the same texts."""
    found = comparisons(row)
    assert all((one.prompt, one.response_a, one.response_b) == tuple(TEXTS.values()) for one in found)
    return [(one.choice, one.annotator) for one in found]


def record(*values, question="preference", fields=TEXTS, **more):
    """A record of Argilla."""
    responses = [{"value": value, "user_id": f"u{number}"} for number, value in enumerate(values, start=1)]
    return {"id": "7", "fields": fields, "responses": {question: responses}, "suggestions": {}} | more


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        *((word, "a") for word in ("response1", "Response 1", "RESPONSE_1", "A", "first", "1", "left")),
        *((word, "b") for word in ("response2", "Response-2", "b", "second", 2)),
        *((word, "tie") for word in ("tie", "Equal", "both", "neither")),
        (["response2", "response1"], "b"),  # a ranking of the second version: from the best to the worst
        ([{"rank": 1, "value": "response1"}, {"rank": 2, "value": "response2"}], "a"),  # of the first version
        ([{"value": "response1", "rank": 1}, {"value": "response2", "rank": 1}], "tie"),
        ({"rank": [2, 1], "value": ["response1", "response2"]}, "b"),
    ],
)
def test_an_answer_in_argilla_names_or_ranks_the_responses(value, choice):
    assert votes(record(value)) == [(choice, "u1")]
    flat = {
        **TEXTS,
        **{"preference.responses": [value], "preference.responses.users": ["u1"]},
        **{"preference.responses.status": ["submitted"], "preference.suggestion": "response1", "id": "7"},
    }
    assert votes(flat) == [(choice, "u1")]
    first_version = TEXTS | {"preference": [{"user_id": "u1", "value": value, "status": "submitted"}], "metadata": "{}"}
    assert votes(first_version) == [(choice, "u1")]
    columns = TEXTS | {"preference": {"user_id": ["u1"], "value": [value], "status": ["submitted"]}}
    assert votes(columns) == [(choice, "u1")]


def test_everybody_has_a_vote_and_drafts_have_none():
    row = record("response1", "response2", "tie")
    assert votes(row) == [("a", "u1"), ("b", "u2"), ("tie", "u3")]
    row["responses"]["preference"][0]["status"] = "draft"
    row["responses"]["preference"][1]["status"] = "discarded"
    row["responses"]["preference"][2]["status"] = "submitted"
    assert votes(row) == [("tie", "u3")]


def test_of_several_questions_the_one_that_compares_is_read():
    row = record("response2")
    row["responses"]["comment"] = [{"value": "nice", "user_id": "u1"}]
    assert votes(row) == [("b", "u1")]
    row["responses"]["best"] = row["responses"]["comment"]
    with pytest.raises(DataError, match="several questions"):
        comparisons(row)


def test_a_ranking_of_three_gives_every_pair():
    fields = {"instruction": "Go.", "generation_a": "x", "generation_b": "y", "generation_c": "z", "model": "m"}
    found = comparisons(record(["generation_c", "generation_a", "generation_b"], fields=fields))
    assert found == [
        Comparison("Go.", "x", "y", "a", "u1"),
        Comparison("Go.", "x", "z", "b", "u1"),
        Comparison("Go.", "y", "z", "b", "u1"),
    ]


def task(*results, data=None, **more):
    """A task of Label Studio, with one annotation for each result."""
    annotations = [
        {"id": n, "completed_by": n, "was_cancelled": False, "result": [{"from_name": "pw", **one}], "lead_time": 2.5}
        for n, one in enumerate(results, start=1)
    ]
    return {"id": 1, "data": data or TEXTS, "annotations": annotations, "predictions": []} | more


def pairwise(side):
    return {"type": "pairwise", "to_name": "response1", "value": {"selected": side}}


def choices(*names):
    return {"type": "choices", "value": {"choices": [*names]}}


def test_an_answer_in_label_studio_is_a_side_a_choice_or_a_ranking():
    assert votes(task(pairwise("left"), pairwise("right"))) == [("a", "1"), ("b", "2")]
    assert votes(task(choices("response2"), choices("tie"), choices("A"))) == [("b", "1"), ("tie", "2"), ("a", "3")]
    turned = dict(reversed(TEXTS.items()))  # the names say which is on the left, and not their order in the file
    assert votes(task(pairwise("left"), data=turned)) == [("a", "1")]
    cancelled = task(pairwise("left"), pairwise("right"))
    cancelled["annotations"][0]["was_cancelled"] = True
    cancelled["annotations"][1]["completed_by"] = {"id": 4, "email": "ada@example.org"}
    assert votes(cancelled) == [("b", "ada@example.org")]
    items = [
        {"id": "m1", "title": "First", "body": "Red."},
        {"id": "m2", "title": "Second", "html": "Blue, of course."},
    ]
    ranked = {"type": "ranker", "value": {"ranker": {"rank": ["m2", "m1"]}}}
    assert votes(task(ranked, data={"prompt": "Name a colour.", "items": items})) == [("b", "1")]


@pytest.mark.parametrize("value", ["left", [{"selected": "left"}], {"selected": "left"}, '[{"selected": "left"}]'])
def test_flat_exports_of_label_studio(value):
    notes = {"id": 1, "annotator": 3, "annotation_id": 9, "created_at": "x", "updated_at": "x", "lead_time": 1.0}
    assert votes(TEXTS | notes | {"comparison": value}) == [("a", "3")]


def test_a_dialogue_as_the_prompt():
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]
    (found,) = comparisons(record("response1", fields={"messages": turns, "response1": "a", "response2": "b"}))
    assert found.prompt == tuple(Message(turn["role"], turn["content"]) for turn in turns)


@pytest.mark.parametrize(
    "row",
    [{"prompt": "x", "chosen": "a", "rejected": "b"}, {"text": "x", "label": 1}, {"fields": "x", "responses": []}],
)
def test_rows_of_other_tools_are_left_to_others(row):
    assert comparisons(row) is None


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (record(), Unusable, "unlabelled"),
        (record("response1") | {"responses": {}}, Unusable, "unlabelled"),
        (task(), Unusable, "unlabelled"),
        (record("response1", fields=TEXTS | {"response2": " "}), Unusable, "empty"),
        (record("response9"), DataError, "must be one of the two responses, of 'response1', 'response2'"),
        (record(["response1", "other"]), DataError, "'other': must name one of the responses"),
        (
            record("A", fields={"prompt": "x", "response1": "y"}),
            DataError,
            "two responses are needed beside the prompt",
        ),
    ],
)
def test_what_cannot_be_understood_is_said(row, error, message):
    with pytest.raises(error, match=message):
        comparisons(row)


# As data to train on


def numbered(number):
    return {
        "prompt": f"Name colour {number}.",
        "response1": f"Red {number}.",
        "response2": f"Blue {number}, of course.",
    }


def as_argilla(n):
    return [record("response1", "response2", "tie", fields=numbered(i)) for i in range(n)]


def as_label_studio(n):
    return [task(pairwise("left"), pairwise("right"), choices("tie"), data=numbered(i)) for i in range(n)]


def as_flat_argilla(n):
    more = {
        "preference.responses": ["response1", ["response2", "response1"], "tie"],
        "preference.responses.users": ["u1", "u2", "u3"], "preference.responses.status": ["submitted"] * 3,
    }  # fmt: skip
    return [numbered(i) | more for i in range(n)]


def as_flat_label_studio(n):
    notes = {"annotation_id": 9, "created_at": "x", "updated_at": "x", "lead_time": 1.0}
    return [
        numbered(i) | notes | {"annotator": who, "comparison": side}
        for i in range(n)
        for who, side in ((1, "left"), (2, "right"), (3, "tie"))
    ]


def read(path):
    """The records in a file, and how it was read."""
    found = []
    table = formats.read(path)
    one = recognise(compared(table) or table)
    _, reading = records(one, meanings([one], "positive"), "training", found.extend)
    return found, reading


@pytest.mark.parametrize("make", [as_argilla, as_label_studio, as_flat_argilla, as_flat_label_studio])
@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_every_vote_in_an_export_is_a_comparison(tmp_path, make, form, capsys):
    path, rows = tmp_path / f"export.{form}", make(40)
    if form == "csv":
        if make is not as_flat_label_studio:
            pytest.skip("this tool does not write such tables")
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    found, _ = read(path)
    assert len(found) == 120
    assert {one.prompt for one in found} == {f"Name colour {i}." for i in range(40)}
    assert sorted({(one.response_a[:3], one.choice) for one in found}) == [("Red", "a"), ("Red", "b"), ("Red", "tie")]
    assert len({one.annotator for one in found}) == 3
    assert main(["data", str(path)]) == 0
    assert "votes of an annotation tool" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_one_task_alone_is_a_row_and_no_table(tmp_path, form):
    ranked = [{"type": "pairwise", "value": {"selected": "left"}}, {"type": "pairwise", "value": {"selected": "right"}}]
    path = tmp_path / f"export.{form}"
    path.write_text(json.dumps(task(*ranked)) + "\n")
    assert [(one.response_a, one.choice) for one in read(path)[0]] == [("Red.", "a"), ("Red.", "b")]


def test_one_line_of_a_file_of_lines_is_a_row(tmp_path):
    """Its lists of objects are cells."""
    path = tmp_path / "one.jsonl"
    completions = [{"response": "x", "overall_score": 1}, {"response": "y", "overall_score": 3}]
    path.write_text(json.dumps({"instruction": "Go.", "completions": completions}))
    ((ranking,), _) = read(path)
    assert [one[0].content for one in ranking.responses] == ["y", "x"]


def test_rows_without_an_answer_are_counted_and_wrong_ones_named(tmp_path):
    path, rows = tmp_path / "export.jsonl", as_argilla(30)
    rows[0]["responses"] = {}
    rows[7]["fields"]["response2"] = " "
    path.write_text("\n".join(map(json.dumps, rows)))
    found, reading = read(path)
    assert reading.dropped == {"unlabelled": 1, "empty": 1}
    assert len(found) == reading.records == 84
    rows[9]["responses"]["preference"][0]["value"] = "response9"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="line 10: 'response9': must be one of the two responses"):
        load(str(path))


def test_dialogues_stay_dialogues(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "?"}, {"role": "user", "content": "x"}]
    rows = [
        record("response1", fields={"messages": turns, "response1": f"a {i}", "response2": f"b {i}"}) for i in range(9)
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(rows))
    found, _ = read(path)
    assert found[0].prompt == tuple(Message(turn["role"], turn["content"]) for turn in turns)
    assert {one.response_a[0].role for one in found} == {"assistant"}


def test_labels_of_single_texts_are_still_labels(tmp_path):
    results = [{"id": 1, "completed_by": 1, "result": [{"type": "choices", "value": {"choices": ["positive"]}}]}]
    rows = [{"data": {"text": f"text {i}"}, "annotations": results, "predictions": []} for i in range(9)]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(rows))
    assert {one.label for one in read(path)[0]} == {1}


@pytest.mark.parametrize("name", ["feedloop.db", "votes.sqlite", "votes"])
def test_the_database_of_feedloop_is_data(tmp_path, name, capsys):
    path = tmp_path / name
    connection = sqlite3.connect(path)
    columns = "id, prompt, output_a, output_b, display_order, status, chosen, created_at, completed_at"
    connection.execute(f"CREATE TABLE comparisons ({columns})")
    for i in range(30):
        status, chosen = [("completed", "a"), ("completed", "b"), ("skipped", None)][i % 3]
        row = (str(i), f"prompt {i}", f"x {i}", f"y {i}", "ab", status, chosen, str(i), None)
        connection.execute("INSERT INTO comparisons VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    assert sorted(one.choice for one in read(path)[0]) == ["a"] * 10 + ["b"] * 10
    assert read(path)[1].dropped == {"unlabelled": 10}
    assert main(["data", str(path)]) == 0
    assert "a database of feedloop" in capsys.readouterr().out
