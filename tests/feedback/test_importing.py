"""Pairs and votes from files."""

import json
import sqlite3

import pytest
from data.test_annotation_tools import TEXTS, pairwise, record, task
from feedback.projects import project, rows
from feedback.test_exchange import say

from plaudit.errors import DataError, FeedbackError
from plaudit.feedback import exchange
from plaudit.feedback.exchange import comparisons, export
from plaudit.feedback.importing import load
from plaudit.feedback.store import Store
from plaudit.records import Comparison, Message


@pytest.fixture
def empty(opened):
    return opened(Store.open, folder="empty")


def written(tmp_path, lines, name="pairs.jsonl"):
    path = tmp_path / name
    text = "".join(json.dumps(line) + "\n" for line in lines) if isinstance(lines, list) else lines
    path.write_text(text, encoding="utf-8")
    return path


def counts(imported):
    return imported.pairs, imported.votes, dict(imported.left_out)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([record("response1", "response2")], [("a", "u1"), ("b", "u2")]),
        ([task(pairwise("right"), pairwise("left"))], [("b", "1"), ("a", "2")]),
        ([{"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Blue, of course."}], [("a", "pairs.json 1")]),
        (
            [{"prompt": "Name a colour.", "response_a": "Red.", "response_b": "Blue, of course.", "choice": "tie"}],
            [("tie", "pairs.json 1")],
        ),
    ],
)
def test_votes_of_other_tools_become_comparisons(empty, tmp_path, rows, expected):
    path = written(tmp_path, json.dumps(rows), "pairs.json")
    assert counts(load(empty, path, now=5.0)) == (1, len(expected), {})
    assert [(one.choice, one.annotator) for one in comparisons(empty)] == expected
    assert {(one.prompt, one.response_a, one.response_b) for one in comparisons(empty)} == {tuple(TEXTS.values())}
    assert {label.at for label in empty.labels()} == {5.0}
    assert counts(load(empty, path)) == (0, 0, {"voted already": len(expected)})  # the same again adds nothing


def test_a_json_array_and_a_folder_are_read_too(empty, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([task(pairwise("left"), id=1), task(id=2)]))
    (folder / "b.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "x", "rejected": "y"}))
    assert counts(load(empty, folder)) == (2, 2, {"unlabelled": 1})


def test_flat_tables_of_label_studio_are_read_as_csv(empty, tmp_path):
    text = (
        "prompt,answer1,answer2,comparison,annotator,annotation_id,lead_time,id\n"
        'p,x,y,"[{""selected"": ""right""}]",ada@example.org,1,2.5,1\np,x,y,left,bea@example.org,2,1.5,1\n'
    )
    assert counts(load(empty, written(tmp_path, text, "project.csv"))) == (1, 2, {})
    assert [(one.choice, one.annotator) for one in comparisons(empty)] == [
        ("b", "ada@example.org"),
        ("a", "bea@example.org"),
    ]


def test_conversations_and_rankings(empty, tmp_path):
    path = written(
        tmp_path,
        [
            {
                "prompt": [{"role": "user", "content": "Hi"}],
                "chosen": [{"role": "assistant", "content": "Hello"}],
                "rejected": [{"role": "assistant", "content": "What?"}],
            }
        ],
    )
    load(empty, path)
    expected = Comparison(
        (Message("user", "Hi"),),
        (Message("assistant", "Hello"),),
        (Message("assistant", "What?"),),
        "a",
        "pairs.jsonl 1",
        1.0,
    )
    assert comparisons(empty) == [expected]
    ranked = written(tmp_path, [{"prompt": "p", "responses": ["x", "y", "z"], "rank": [2, 1, 3]}], "ranked.jsonl")
    assert counts(load(empty, ranked)) == (3, 3, {})
    assert {(one.response_a, one.response_b, one.choice) for one in comparisons(empty)[1:]} == {
        ("y", "x", "a"),
        ("y", "z", "a"),
        ("x", "z", "a"),
    }


def test_nameless_votes_on_the_same_pair_are_several_peoples(empty, tmp_path):
    """In either order of the texts."""
    path = written(
        tmp_path,
        [{"prompt": "p", "chosen": better, "rejected": worse} for better, worse in ("xy", "xy", "yx")],
    )
    assert counts(load(empty, path)) == (1, 3, {})
    assert [(one.response_a, one.choice, one.annotator[-1]) for one in comparisons(empty)] == [
        ("x", "a", "1"),
        ("x", "a", "2"),
        ("x", "b", "3"),
    ]


def test_sides_that_a_file_does_not_tell_are_drawn_and_stay_the_same(empty, tmp_path, opened):
    path = written(tmp_path, [{"prompt": f"p{i}", "chosen": "x", "rejected": "y"} for i in range(40)])
    load(empty, path)
    lefts = [label.left for label in empty.labels()]
    assert 8 <= lefts.count("a") <= 32
    other = opened(Store.open, folder="other")
    load(other, path)
    assert [label.left for label in other.labels()] == lefts


def test_pairs_alone_are_compared_anew(empty, tmp_path):
    bare = written(tmp_path, [{"prompt": "p", "response_a": "x", "response_b": "y"}], "bare.jsonl")
    assert counts(load(empty, bare, "eval", round=2)) == (1, 0, {})
    judged = written(tmp_path, [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    assert counts(load(empty, judged, votes=False)) == (1, 0, {})
    assert empty.labels() == []
    assert [(one.purpose, one.round) for one in empty.items()] == [("eval", 2), ("train", 0)]


def test_our_own_table_keeps_names_sides_times_ties_and_repetitions(opened, empty, tmp_path):
    store = opened(project, 5, ("Ada", "=Bea"), gold=1, eval=1)
    texts = ("=1", "'-2", 'a,"b"\nc', "\tx", "é🙂")
    for text in texts:
        pair = store.add_completion("+p", text), store.add_completion("+p", text + "!")
        store.add_item(*pair)
    for item, outcome in enumerate(["a", "b", "tie", "both_bad", "skip", "a", "b", *"abab"], start=1):
        say(store, 1, item, outcome, strength=1 + item % 2, left="ab"[item % 2], at=100.125 + item)
    say(store, 1, 1, "b", repeat=1, left="a")
    say(store, 2, 1, "b", left="b")
    path = tmp_path / "votes.csv"
    assert export(store, path, "csv") == 12
    load(empty, path)

    def essence(store):
        names = {one.id: one.name for one in store.annotators()}
        prompts, found = store.prompts(range(99)), store.completions(range(99))
        return [
            (
                prompts[one.prompt],
                found[one.a].text,
                found[one.b].text,
                one.outcome,
                one.strength,
                one.left,
                one.repeat,
                names[one.annotator],
                one.purpose,
                one.gold,
                one.ms,
                one.wall_ms,
                one.at,
            )
            for one in store.labels()
            if one.outcome != "skip"
        ]

    assert essence(empty) == essence(store)
    again = load(store, path)  # into the project that it comes from
    assert counts(again) == (0, 0, {"voted already": 12})


def test_a_dialogue_in_our_own_table(opened, empty, tmp_path):
    store = opened(Store.open)
    prompt = (Message("user", "Hi 🙂"),)
    store.add_item(store.add_completion(prompt, "x"), store.add_completion(prompt, "y"))
    store.add_annotator("Ada", "person", "s")
    say(store, 1, 1, "b")
    export(store, tmp_path / "votes.csv", "csv")
    load(empty, tmp_path / "votes.csv")
    assert comparisons(empty) == comparisons(store)


def test_a_whole_project_is_restored(opened, empty, tmp_path):
    store = opened(project, 2)
    say(store, 1, 1, "b")
    export(store, tmp_path / "all.jsonl", "all")
    assert counts(load(empty, tmp_path / "all.jsonl")) == (2, 1, {})
    assert [*exchange.everything(empty)] == [*exchange.everything(store)]


FEEDLOOP = """
CREATE TABLE comparisons (id TEXT PRIMARY KEY, session_id TEXT NOT NULL, prompt TEXT NOT NULL, output_a TEXT NOT NULL,
    output_b TEXT NOT NULL, display_order TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending', chosen TEXT,
    created_at TEXT NOT NULL, completed_at TEXT, metadata TEXT, uncertainty REAL);
INSERT INTO comparisons VALUES
    ('1', 's', 'p', 'x', 'y', 'ba', 'completed', 'b', '2026-01-01T00:00:00+00:00',
        '2026-01-01T00:00:10+00:00', NULL, NULL),
    ('2', 's', 'q', 'x', 'y', 'ab', 'skipped', NULL, '2026-01-01T00:00:01+00:00',
        '2026-01-01T00:00:20+00:00', NULL, 0.5),
    ('3', 's', 'r', 'x', 'y', 'ab', 'pending', NULL, '2026-01-01T00:00:02+00:00', NULL, NULL, NULL);
"""


def test_the_database_and_the_file_of_feedloop(empty, tmp_path):
    path = tmp_path / "feedloop.db"
    connection = sqlite3.connect(path)
    connection.executescript(FEEDLOOP)
    connection.close()
    assert counts(load(empty, path)) == (3, 1, {})
    (label,) = empty.labels()
    assert (label.outcome, label.left, label.at) == ("b", "b", 1767225610.0)
    exported = written(tmp_path, [{"prompt": "s", "chosen": "é", "rejected": "y"}], "preferences.jsonl")
    assert counts(load(empty, exported)) == (1, 1, {})
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE comparisons (x)")
    connection.execute("INSERT INTO comparisons VALUES (1)")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="not a database of feedloop"):
        load(empty, other)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([{"text": "x", "label": 1}], DataError, "labelled texts, and here pairs of responses are needed"),
        ([{"prompt": "x", "response": "y"}], DataError, "here pairs of responses are needed"),
        ([{"foo": "x", "bar": "y"}], DataError, "foo"),
        ([{"prompt": "x", "chosen": "y", "rejected": "y"}], FeedbackError, "no pairs of responses in it: 1 identical"),
        ([record("response9")], DataError, "item 1: 'response9': must be one of the two"),
        ([record("response1"), record("response1", fields={"prompt": "x"})], DataError, "line 2: two responses"),
        ([{"prompt": 1, "response_a": "x", "response_b": "y"}], DataError, "item 1: prompt 1: must be text"),
        (
            "prompt,response_a,response_b,outcome,left,purpose,annotator\np,x,y,maybe,a,train,Ada\n",
            DataError,
            "outcome 'maybe': must be",
        ),
        (
            "prompt,response_a,response_b,outcome,left,purpose,annotator,strength\np,x,y,a,a,train,Ada,nan\n",
            DataError,
            "line 2: cannot convert",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_of_it_stays(empty, tmp_path, lines, error, message):
    path = written(tmp_path, lines, "x.csv" if isinstance(lines, str) else "x.jsonl")
    with pytest.raises(error, match=message) as raised:
        load(empty, path)
    assert "\n" not in str(raised.value)
    assert rows(empty, "SELECT count(*) FROM completion") == [(0,)]


def test_a_missing_file_is_named(empty, tmp_path):
    with pytest.raises(FeedbackError, match=r"nowhere\.jsonl: no such file or folder"):
        load(empty, tmp_path / "nowhere.jsonl")
