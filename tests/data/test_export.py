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
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking

N = 80


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train_rows(path):
    """The rows without their part, which is train."""
    found = rows(path)
    assert {row.pop("split") for row in found} == {"train"}
    return found


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
def test_what_is_exported_is_read_back_as_the_same_data_in_the_same_parts(data, tmp_path):
    before = load(data)
    counts = export(before, tmp_path / "out.jsonl")
    assert sum(counts.values()) == N
    assert load(str(tmp_path / "out.jsonl")).fingerprint == before.fingerprint
    assert [row["split"] for row in rows(tmp_path / "out.jsonl")] == [
        part for part in counts for _ in range(counts[part])
    ]


def test_comparisons_without_ties_and_with_margins(tmp_path):
    records = [
        Comparison("why", "a good one", "a bad one", "a", margin=2.0),
        Comparison("how", "a bad one", "a good one", "b"),
        Comparison("what", "one", "another", "tie"),
    ]
    assert export(only(*records), tmp_path / "out.jsonl")["train"] == 2
    assert train_rows(tmp_path / "out.jsonl") == [
        {"prompt": "why", "chosen": " a good one", "rejected": " a bad one", "margin": 2.0},
        {"prompt": "how", "chosen": " a good one", "rejected": " a bad one", "margin": 0.0},
    ]


def test_labels_of_responses_are_marks_and_shares_stay_numbers(tmp_path):
    records = [LabelledText("fine", 1, "why"), LabelledText("poor", 0, "why"), LabelledText("so-so", 0.25, "why")]
    export(only(*records), tmp_path / "out.jsonl")
    found = [(row["completion"], row["label"]) for row in train_rows(tmp_path / "out.jsonl")]
    assert found == [(" fine", True), (" poor", False), (" so-so", 0.25)]
    assert [type(label) for _, label in found] == [bool, bool, float]


def test_dialogues_are_lists_of_messages(tmp_path):
    ask, good, bad = (Message("user", "why?"),), (Message("assistant", "so."),), (Message("assistant", "no."),)
    export(only(Comparison(ask, good, bad, "a")), tmp_path / "a.jsonl")
    export(only(Demonstration("", (*ask, *good))), tmp_path / "b.jsonl")
    says = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]
    assert train_rows(tmp_path / "a.jsonl") == [
        {"prompt": says[:1], "chosen": says[1:], "rejected": [{"role": "assistant", "content": "no."}]}
    ]
    assert train_rows(tmp_path / "b.jsonl") == [{"messages": says}]


TOKENIZER = Tokenizer.of(make_tokenizer())


@given(st.text("ab \n.", max_size=8), st.text("ab \n.", min_size=1, max_size=8).filter(str.strip))
def test_the_parts_can_be_joined_as_they_are(prompt, response):
    """Their concatenation, tokenised at once, is what plaudit trains on where the text decides the tokens."""
    head, rest = _joinable(prompt, response)
    ours = TOKENIZER.text([id for ids in TOKENIZER.demonstration(prompt, response) for id in ids])
    assert head + rest == ours


def test_a_ranking_is_all_its_pairs(tmp_path):
    export(only(Ranking("why", ("best", "good", "bad"))), tmp_path / "out.jsonl")
    found = [(row["chosen"], row["rejected"]) for row in train_rows(tmp_path / "out.jsonl")]
    assert found == [(" best", " good"), (" best", " bad"), (" good", " bad")]


def test_prompts_alone_are_written_as_such(tmp_path):
    dialogue = (Message("user", "Why?"),)
    export(only(Prompt("why"), Prompt(dialogue)), tmp_path / "out.jsonl")
    assert [row["prompt"] for row in train_rows(tmp_path / "out.jsonl")] == ["why", [vars(dialogue[0])]]


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "taken.jsonl").write_text("")
    data = load([f"a text with the number {i}" for i in range(N)])
    with pytest.raises(DataError, match=r"taken\.jsonl: exists already; choose another name"):
        export(data, tmp_path / "taken.jsonl")
    with pytest.raises(DataError, match=r"out\.csv: must end in \.jsonl"):
        export(data, tmp_path / "out.csv")
    with pytest.raises(DataError, match="own: only ties"):
        export(only(Comparison("", "a", "b", "tie")), tmp_path / "new" / "out.jsonl")
    assert not (tmp_path / "new").exists()


def test_the_command(tmp_path, tiny_data_folder, capsys):
    path = tmp_path / "new" / "out.jsonl"
    assert main(["data", tiny_data_folder, "--export", str(path)]) == 0
    found = [row["split"] for row in rows(path)]
    counts = ", ".join(f"{found.count(part):,} {part}" for part in ("train", "prompts", "evaluation"))
    assert capsys.readouterr().out.endswith(f"\n{path}: {counts}\n")
    assert main(["data", tiny_data_folder, "--export", str(path)]) == 1
    assert "exists already" in capsys.readouterr().err
