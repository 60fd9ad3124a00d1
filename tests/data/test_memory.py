"""Data in memory: what may be passed, that it equals the same data from a file, and how it is found again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.data import memory
from plaudit.data.corpus import load
from plaudit.errors import ConfigError, DataError
from plaudit.records import Comparison, Demonstration, LabelledText

N = 60
LABELLED = [(f"film {i} is {'good' if i % 2 else 'bad'}", i % 2) for i in range(N)]
DEMONSTRATIONS = [(f"question {i}", f"answer {i}") for i in range(N)]
COMPARISONS = [(f"question {i}", f"better {i}", f"worse {i}") for i in range(N)]
KINDS = {
    "labels": (
        LABELLED,
        [LabelledText(text, label) for text, label in LABELLED],
        [{"text": text, "label": label} for text, label in LABELLED],
    ),
    "demonstrations": (
        DEMONSTRATIONS,
        [Demonstration(*pair) for pair in DEMONSTRATIONS],
        [dict(zip(("prompt", "response"), pair, strict=True)) for pair in DEMONSTRATIONS],
    ),
    "comparisons": (
        COMPARISONS,
        [Comparison(*three, "a") for three in COMPARISONS],
        [dict(zip(("prompt", "chosen", "rejected"), three, strict=True)) for three in COMPARISONS],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tuples_records_rows_and_a_file_are_the_same_data(kind, tmp_path):
    tuples, records, rows = KINDS[kind]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prints = {load(data).fingerprint for data in (tuples, records, rows, str(path), iter(tuples))}
    assert len(prints) == 1


def test_a_text_alone_is_a_demonstration():
    texts = [f"a film about the number {i}" for i in range(N)]
    assert load(texts).fingerprint == load([Demonstration("", text) for text in texts]).fingerprint


def test_columns_are_read_whatever_their_case():
    rows = [{" Text ": text, "LABEL": label} for text, label in LABELLED]
    assert load(rows).fingerprint == load(LABELLED).fingerprint


def test_a_table_of_pandas_is_read_by_rows():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(LABELLED, columns=["text", "label"])
    assert load(table).fingerprint == load(LABELLED).fingerprint


def test_the_name_is_that_of_the_content():
    splits = load(LABELLED)
    assert splits.name == memory.PREFIX + splits.fingerprint[:12]
    assert load(splits.name) is splits
    assert load(LABELLED[::-1]) is splits  # the order does not matter
    assert load(LABELLED[:-1]).name != splits.name


def test_given_evaluation_data_are_held_out():
    splits = load(LABELLED[:-20], evaluation=LABELLED[-20:])
    assert {r.text for r in splits.evaluation.labelled} == {text for text, _ in LABELLED[-20:]}


@given(
    st.sampled_from([3, None, (), ("a",), ("a", "b", "c", "d"), ("a", 2), ("a", -1), (1, "a"), ("a", None), [["a"], 1]])
)
def test_other_items_are_refused_with_their_number(item):
    with pytest.raises(DataError, match=r"^the data in memory, item 2: .* is no record; give a record, a text, \(text"):
        load([LABELLED[0], item])


def test_rows_are_refused_like_those_of_a_file():
    with pytest.raises(DataError, match="the data in memory: no columns to learn from; found 'body'"):
        load([{"body": f"film {i}"} for i in range(N)])
    with pytest.raises(DataError, match="the data in memory, item 3: label 'so-so'"):
        load([{"text": f"film {i}", "label": "so-so" if i == 2 else i % 2} for i in range(N)])


def test_no_records_are_refused():
    with pytest.raises(DataError, match="the data in memory: there are no records"):
        load([])


def test_data_of_another_process_are_asked_for():
    with pytest.raises(DataError, match=r"memory-0123: .* pass them again in Python: plaudit.open_run"):
        load("memory-0123")


def test_evaluation_data_do_not_go_with_a_name():
    for data, evaluation in (("movie-reviews", LABELLED), (LABELLED, "movie-reviews")):
        with pytest.raises(DataError, match="evaluation: must be a name where the data are a name"):
            load(data, evaluation=evaluation)


def test_rows_are_read_as_the_settings_say():
    rows = [{"body": f"film {i}", "stars": i % 5 + 1} for i in range(N)]
    splits = load(rows, columns="text=body,label=stars", positive=">=4", evaluation=rows[:9])
    assert {(int(r.text.split()[1]) % 5 > 2) == r.label for r in splits.train.labelled} == {True}
    assert len(splits.evaluation.labelled) == 9
    with pytest.raises(ConfigError, match=r"data\.colums: no such setting"):
        load(rows, colums="text=body")


def test_rows_and_records_are_not_mixed():
    with pytest.raises(DataError, match="the data in memory: 1 dictionaries and 1 other items are mixed"):
        load([LABELLED[0], {"text": "a film", "label": 1}])
    with pytest.raises(DataError, match="the evaluation data in memory: they must be dictionaries where"):
        load(LABELLED, evaluation=[{"text": "a film", "label": 1}])
