"""What people chose, as comparisons and as files, and back."""

import csv
import io
import json
import re

import numpy as np
import pytest
from feedback.projects import project, rows, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import FeedbackError
from plaudit.feedback import exchange
from plaudit.feedback.assignment import Plan, next
from plaudit.feedback.exchange import comparisons, export, restore, snapshot, unguarded
from plaudit.feedback.store import Store
from plaudit.records import Comparison, Message

PLAN = Plan(overlap=9, practice=0, gold_share=0.0, repeat_share=0.0)
NASTY = ("=1+1", "-2", "+3", "@x", "'=4", "''-5", "\t6", "\r7", 'a,"b"\nc', "'quoted'", " =x", "é🙂\u202e", "'", "")


def say(store, annotator, item, outcome, strength=1, repeat=0, left="a", at=1.0):
    """A vote on an item, whatever the plan."""
    with store.transaction() as connection:
        asked = connection.execute(
            'INSERT INTO assignment (annotator_id, item_id, repeat, "left", given) VALUES (?, ?, ?, ?, 0)',
            (annotator, item, repeat, left),
        ).lastrowid
        is_choice = outcome in ("a", "b")
        side = ("left" if outcome == left else "right") if is_choice else None
        store.record(f"say-{asked}", asked, annotator, "choose" if is_choice else outcome, side, strength, 7, 8, now=at)
    return asked


@pytest.fixture
def judged(opened):
    """Ada and Bea on four pairs: agreed, opposed, tied against chosen, and one that nobody learns from."""
    store = opened(project, 4, ("Ada", "Bea"), gold=1, eval=1)
    for annotator, item, outcome, strength, left in (
        *((1, 1, "a", 2, "b"), (2, 1, "a", 1, "a"), (1, 2, "a", 1, "b"), (2, 2, "b", 1, "b")),
        *((1, 3, "both_bad", 1, "a"), (2, 3, "b", 1, "a"), (1, 4, "skip", 1, "a")),
        *((1, 5, "b", 1, "a"), (2, 6, "a", 1, "a")),
    ):
        say(store, annotator, item, outcome, strength, left=left)
    return store


def test_comparisons_have_annotators_ties_and_strengths_and_no_skips(judged):
    assert comparisons(judged) == [
        Comparison("train 0", "good 0", "bad 0", "a", "Ada", 2.0),
        Comparison("train 0", "good 0", "bad 0", "a", "Bea", 1.0),
        Comparison("train 1", "good 1", "bad 1", "a", "Ada", 1.0),
        Comparison("train 1", "good 1", "bad 1", "b", "Bea", 1.0),
        Comparison("train 2", "good 2", "bad 2", "tie", "Ada", 0.0),
        Comparison("train 2", "good 2", "bad 2", "b", "Bea", 1.0),
    ]
    assert [one.choice for one in comparisons(judged, ("gold", "eval"))] == ["b", "a"]


def test_the_reward_model_sees_one_vote_a_person_with_ties_as_halves(judged):
    from plaudit.data.judgements import judgements_of
    from plaudit.data.splits import Part

    say(judged, 1, 1, "b", repeat=1, left="a")  # Ada sees the first pair again, and now prefers the other response
    found = judgements_of(Part(comparisons=comparisons(judged)))
    assert [(one.texts[0], one.weight, dict(one.people)) for one in found] == [
        ("good 0", 0.75, {"Ada": 0.5, "Bea": 1.0}),
        ("good 1", 0.5, {"Ada": 1.0, "Bea": 0.0}),
        ("good 2", 0.25, {"Ada": 0.5, "Bea": 0.0}),
    ]


def test_a_snapshot_changes_with_every_vote_that_trains_and_with_no_other(judged):
    first = snapshot(judged)
    assert (len(first.id), first.votes) == (64, 6)
    say(judged, 2, 4, "skip")
    say(judged, 2, 5, "a")
    assert snapshot(judged) == first
    assert snapshot(judged, ("train", "gold")).id != first.id
    say(judged, 1, 6, "a")
    assert snapshot(judged) == first  # another purpose
    seen = {first.id}
    for outcome in ("tie", "both_bad", "choose"):
        side = "left" if outcome == "choose" else None
        judged.record(f"revise-{outcome}", 1, 1, "revise", side, revised=outcome)
        seen.add(snapshot(judged).id)
    assert len(seen) == 4


def test_preferences_are_majorities_with_one_vote_a_person(judged):
    say(judged, 1, 2, "a", repeat=1, left="a")  # Ada says it twice, and it is still one against one
    lines = [json.loads(line) for line in exchange.preferences(judged)]
    assert lines == [
        {"prompt": "train 0", "chosen": " good 0", "rejected": " bad 0"},  # the space joins prompt and response
        {"prompt": "train 2", "chosen": " bad 2", "rejected": " good 2"},
    ]
    assert [json.loads(line) for line in exchange.conversations(judged)][1] == {
        "prompt": [{"role": "user", "content": "train 2"}],
        "chosen": [{"role": "assistant", "content": "bad 2"}],
        "rejected": [{"role": "assistant", "content": "good 2"}],
    }


def test_a_dialogue_keeps_its_form(opened):
    store = opened(Store.open)
    prompt = (Message("system", "Be brief."), Message("user", "Hi"))
    store.add_item(store.add_completion(prompt, "Hello."), store.add_completion(prompt, "Hello, hello!"))
    store.add_annotator("Ada", "person", "x")
    say(store, 1, 1, "b")
    expected = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello, hello!"}],
        "rejected": [{"role": "assistant", "content": "Hello."}],
    }
    for form in (exchange.preferences, exchange.conversations):
        assert [json.loads(line) for line in form(store)] == [expected]
    (comparison,) = comparisons(store)
    assert comparison.response_b == (Message("assistant", "Hello, hello!"),)


def test_what_is_exported_trains_as_what_is_in_the_project(judged, tmp_path):
    from plaudit.data.formats import read
    from plaudit.data.recognition import recognise, records

    for form in ("csv", "preferences", "conversations"):
        path = tmp_path / f"votes.{'csv' if form == 'csv' else 'jsonl'}"
        count = export(judged, path, form)
        found = []
        records(recognise(read(path)), {}, "training", found.extend)
        assert len(found) == count
        assert all(isinstance(one, Comparison) for one in found)
        if form == "csv":
            strip = [(one.response_a, one.choice, one.annotator) for one in comparisons(judged)]
            assert [(one.response_a, one.choice, one.annotator) for one in found][:6] == strip
        path.unlink()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec="utf-8")))))
def test_no_cell_of_a_table_is_a_formula_and_every_cell_is_read_as_it_was(cells):
    (found,) = csv.reader(io.StringIO(exchange._csv(cells), newline="")) if cells else ([],)
    assert not [cell for cell in found if re.match(r"[=+\-@\t\r]", cell)]
    assert [unguarded(cell) for cell in found] == cells


def test_numbers_in_a_table_stay_numbers():
    assert exchange._csv([-1, 2.5, "x"]) == "-1,2.5,x\r\n"


def everything_in(store):
    """All rows of all tables, the file's own text."""
    return [*exchange.everything(store)]


def test_a_whole_project_makes_an_equal_one(judged, opened, tmp_path):
    prompt = (Message("user", "été\n🙂"),)
    a = judged.add_completion(prompt, "=x", None, [1], {"top_p": 0.5}, 3, np.array([0.1, -2.5, 1e-8]))
    judged.add_item(a, judged.add_completion(prompt, "y"), round=2)
    judged.set_meta("guidelines", "Be kind.")
    vote(judged, 1, PLAN, 5.0)
    judged.record("undo", None, 1, "undo", now=6.0)
    next(judged, 2, PLAN, 7.0)
    judged.record("revise", 1, 1, "revise", revised="tie", now=8.0)
    path = tmp_path / "all.jsonl"
    export(judged, path, "all")
    copy = opened(Store.open, folder="copy")
    restore(copy, path)
    for table in (*exchange.TABLES, "label"):
        assert rows(copy, f"SELECT * FROM {table}") == rows(judged, f"SELECT * FROM {table}"), table
    assert everything_in(copy) == everything_in(judged)
    assert copy.labels() == judged.labels()
    assert snapshot(copy) == snapshot(judged)
    assert copy.completions([a])[a].features.tolist() == np.float32([0.1, -2.5, 1e-8]).tolist()
    assert copy.annotator("secret of Ada").name == "Ada"
    assert vote(copy, 2, PLAN, 9.0)
    assert vote(judged, 2, PLAN, 9.0)
    with pytest.raises(FeedbackError, match="into an empty one only"):
        restore(copy, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:3], '{"table": "prompt"}\n'], "line 4: .*columns of prompt"),
        (lambda lines: [*lines[:3], '{"table": "sqlite_master", "sql": "x"}\n'], "line 4: "),
        (lambda lines: [*lines[:3], "{\n"], "line 4: "),
        (lambda lines: [*lines[:3], "[1]\n"], "line 4: "),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 9'), *lines[1:]], "line 1: .*upgrade"),
        (lambda lines: [line for line in lines if '"table": "item"' not in line], "FOREIGN KEY"),
        (lambda lines: [*lines, lines[-1]], "UNIQUE"),
        (lambda lines: [line.replace('"kind": "skip"', '"kind": "tie"') for line in lines], "CHECK"),
    ],
)
def test_a_damaged_project_is_refused_and_leaves_nothing_behind(judged, opened, tmp_path, change, message):
    path = tmp_path / "all.jsonl"
    path.write_text("".join(change(everything_in(judged))))
    copy = opened(Store.open, folder="copy")
    with pytest.raises(FeedbackError, match=message) as error:
        restore(copy, path)
    assert "\n" not in str(error.value)
    assert len(everything_in(copy)) == 1


def test_an_export_is_refused_before_anything_is_written(judged, opened, tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(FeedbackError, match="xlsx: no such form of export; choose one of: preferences"):
        export(judged, path, "xlsx")
    path.write_text("mine")
    with pytest.raises(FeedbackError, match="exists already"):
        export(judged, path, "csv")
    assert path.read_text() == "mine"
    for form in ("preferences", "conversations", "csv", "all"):
        with pytest.raises(FeedbackError, match="no choices to export yet"):
            export(opened(Store.open, folder=form), tmp_path / "new", form)
    assert not (tmp_path / "new").exists()


def test_a_table_tells_sides_times_and_what_wrote_the_responses(judged):
    first = dict(zip(*csv.reader(io.StringIO("".join(list(exchange.table(judged))[:2]))), strict=True))
    assert first == {
        **{"prompt": "train 0", "response_a": "good 0", "response_b": "bad 0", "choice": "a", "outcome": "a"},
        **{"strength": "2", "annotator": "Ada", "left": "b", "repeat": "0", "purpose": "train", "gold": ""},
        **{"round": "0", "active_ms": "7", "wall_ms": "8", "at": "1.0"},
        **{"generator_a": "old-model", "generator_b": "new-model"},
    }
