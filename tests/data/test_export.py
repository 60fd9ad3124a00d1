"""Exported data: what each kind of record becomes, and that plaudit reads it back as the same data."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer

from plaudit.cli import main
from plaudit.data.corpus import load
from plaudit.data.export import _joinable, export
from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Comparison, Demonstration, LabelledText, Message

N = 80


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def only(*records):
    """Splits with these records for training."""
    return Splits("own", Part.of(list(records)), Part(), Part(), {})


@pytest.mark.parametrize(
    "data",
    [
        [(f"film {i} is {'good' if i % 2 else 'bad'}", i % 2) for i in range(N)],
        [(f"question {i}\n", f"answer {i}") for i in range(N)],
        [f"a whole text with the number {i}" for i in range(N)],
        [(f"question {i}\n", f"better {i}", f"worse {i}") for i in range(N)],
        [("", f"better {i}", f"worse {i}") for i in range(N)],
    ],
    ids=["labels", "demonstrations", "texts", "comparisons", "without prompts"],
)
def test_what_is_exported_is_read_back(data, tmp_path):
    before = load(data)
    counts = export(before, tmp_path / "out")
    after = load(str(tmp_path / "out"))
    assert counts == {name: len(rows(tmp_path / "out" / name)) for name in ("train.jsonl", "test.jsonl")}
    assert sum(counts.values()) == N
    for kind in ("labelled", "demonstrations", "comparisons"):
        given, again = ([*getattr(s.train, kind), *getattr(s.prompts, kind)] for s in (before, after))
        assert sorted(given, key=repr) == sorted(again, key=repr)
        assert sorted(getattr(before.evaluation, kind), key=repr) == sorted(getattr(after.evaluation, kind), key=repr)


def test_comparisons_without_ties_and_with_margins(tmp_path):
    records = [
        Comparison("why", "a good one", "a bad one", "a", margin=2.0),
        Comparison("how", "a bad one", "a good one", "b"),
        Comparison("what", "one", "another", "tie"),
    ]
    assert export(only(*records), tmp_path / "out")["train.jsonl"] == 2
    assert rows(tmp_path / "out" / "train.jsonl") == [
        {"prompt": "why", "chosen": " a good one", "rejected": " a bad one", "margin": 2.0},
        {"prompt": "how", "chosen": " a good one", "rejected": " a bad one", "margin": 0.0},
    ]


def test_labels_of_responses_are_marks_and_shares_stay_numbers(tmp_path):
    records = [LabelledText("fine", 1, "why"), LabelledText("poor", 0, "why"), LabelledText("so-so", 0.25, "why")]
    export(only(*records), tmp_path / "out")
    found = [(row["completion"], row["label"]) for row in rows(tmp_path / "out" / "train.jsonl")]
    assert found == [(" fine", True), (" poor", False), (" so-so", 0.25)]
    assert [type(label) for _, label in found] == [bool, bool, float]


def test_dialogues_are_lists_of_messages(tmp_path):
    ask, good, bad = (Message("user", "why?"),), (Message("assistant", "so."),), (Message("assistant", "no."),)
    export(only(Comparison(ask, good, bad, "a")), tmp_path / "a")
    export(only(Demonstration("", (*ask, *good))), tmp_path / "b")
    says = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]
    assert rows(tmp_path / "a" / "train.jsonl") == [
        {"prompt": says[:1], "chosen": says[1:], "rejected": [{"role": "assistant", "content": "no."}]}
    ]
    assert rows(tmp_path / "b" / "train.jsonl") == [{"messages": says}]


TOKENIZER = Tokenizer.of(make_tokenizer())


@given(st.text("ab \n.", max_size=8), st.text("ab \n.", min_size=1, max_size=8).filter(str.strip))
def test_the_parts_can_be_joined_as_they_are(prompt, response):
    """Their concatenation, tokenised at once, is what plaudit trains on where the text decides the tokens."""
    head, rest = _joinable(prompt, response)
    ours = TOKENIZER.text([id for ids in TOKENIZER.demonstration(prompt, response) for id in ids])
    assert head + rest == ours


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="taken: exists already; choose a new folder"):
        export(load([f"a text with the number {i}" for i in range(N)]), tmp_path / "taken")
    with pytest.raises(DataError, match="own: only ties"):
        export(only(Comparison("", "a", "b", "tie")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, tiny_data_folder, capsys):
    assert main(["export", str(tmp_path / "out"), "--data", tiny_data_folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {name: len(rows(tmp_path / "out" / name)) for name in ("train.jsonl", "test.jsonl")}
    assert lines == [f"{tmp_path / 'out' / name}: {count:,} rows" for name, count in found.items()]
    assert main(["export", str(tmp_path / "out"), "--data", tiny_data_folder]) == 1
    assert "exists already" in capsys.readouterr().err
