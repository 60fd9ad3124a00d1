"""Every layout is read from its example row in docs/data.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from plaudit.data.annotation_tools import compared
from plaudit.data.layouts import LAYOUTS
from plaudit.data.recognition import meanings, recognise, records
from plaudit.data.tables import Table
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = [(name, json.loads(row)) for name, row in re.findall(r"^\| (.+?) \| `(\{.+\})` \|$", PAGE, re.MULTILINE)]

TEXT, WHY, BECAUSE, NO = (
    "a warm film",
    (Message("user", "Why?"),),
    (Message("assistant", "Because."),),
    (Message("assistant", "No."),),
)
TRANSCRIPT = "\n\nHuman: Why?\n\nAssistant:"
POST = "SUBREDDIT: r/tifu\n\nTITLE: Help\n\nPOST: A long day.\n\nTL;DR:"
KIND = Message("system", "Be kind.")
EXPECTED: dict[str, Any] = {
    "labelled texts of Prodigy": LabelledText("a dull film", 0),
    "labelled texts (soft labels)": LabelledText(TEXT, 0.8),
    "labelled texts of Argilla": LabelledText(TEXT, 0.5),
    "judged responses (KTO)": LabelledText("Because.", 1, "Why?"),
    "judged responses (HelpSteer)": LabelledText("Because.", 0.75, "Why?"),
    "judged conversations": LabelledText(BECAUSE, 1, WHY),
    "plain texts": Demonstration("", TEXT),
    "prompts and responses": Demonstration("Why?", " Because."),
    "prompts and responses (messages)": Demonstration(WHY, BECAUSE),
    "conversations (OpenAI, TRL)": Demonstration((KIND, *WHY), BECAUSE),
    "conversations (ShareGPT)": Demonstration(WHY, BECAUSE),
    "instructions and responses (Alpaca)": Demonstration(
        (Message("user", "Translate.\n\nchat"),), (Message("assistant", "cat"),)
    ),
    "instructions and responses (Dolly)": Demonstration(WHY, BECAUSE),
    "questions and answers": Demonstration(WHY, BECAUSE),
    "prompts": Prompt("Why?"),
    "prompts (messages)": Prompt(WHY),
    "questions": Prompt(WHY),
    "chosen and rejected responses": Comparison("Why?", " Because.", " No.", "a"),
    "chosen and rejected responses (hh-rlhf)": Comparison(TRANSCRIPT, " Because.", " No.", "a"),
    "chosen and rejected responses (UltraFeedback)": Comparison(WHY, BECAUSE, NO, "a", margin=4.5),
    "chosen and rejected responses (Orca)": Comparison((KIND, *WHY), BECAUSE, NO, "a"),
    "pairs of responses and a choice": Comparison("Why?", " Because.", " No.", "tie", "ann"),
    "pairs of SafeRLHF": Comparison("Why?", "No.", "Because.", "b"),
    "pairs of SHP": Comparison(WHY, BECAUSE, NO, "a", margin=2.5),
    "pairs of summaries": Comparison(POST, " A day.", " No.", "a", "w"),
    "battles of an arena": Comparison(WHY, BECAUSE, NO, "tie"),
    "preferences of HelpSteer 2": Comparison("Why?", "Because.", "No.", "a", margin=2),
    "preferences of HelpSteer 3": Comparison(WHY, BECAUSE, NO, "a", margin=2),
    "votes of an annotation tool": Comparison("Why?", " Because.", " No.", "a", "1"),
    "scored completions of UltraFeedback": Ranking(WHY, (BECAUSE, NO)),
}


def read(*rows: dict[str, Any], positive: str = "") -> tuple[str, list[Any], dict[str, int]]:
    table = Table("t", "line", [(i, {k.lower(): v for k, v in row.items()}) for i, row in enumerate(rows, 1)])
    one = recognise(compared(table) or table)
    assert one
    found: list[Any] = []
    _, reading = records(one, meanings([one], positive), "training", found.extend)
    return reading.layout, found, reading.dropped


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_each_row_of_the_page_is_read(name: str, row: dict[str, Any]) -> None:
    layout, found, dropped = read(row)
    assert layout == name.partition(" (")[0]
    default: Any = Comparison(WHY, BECAUSE, NO, "a")
    if "ranked" in name or "worst" in name:
        default = Ranking("Why?", ("Because.", "No."))
    elif "text" in row or "review" in row or "sentence" in row or "data" in row or "fields" in row:
        default = LabelledText(TEXT, 1)
    assert found == [EXPECTED.get(name, default)]
    assert dropped == {}


def test_the_page_has_every_layout() -> None:
    assert {name.partition(" (")[0] for name, _ in ROWS} == {layout.name for layout in LAYOUTS}
    assert set(EXPECTED) <= {name for name, _ in ROWS}


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_columns_that_change_nothing_are_ignored(name: str, row: dict[str, Any]) -> None:
    more = {"id": 3, "source": "web", "url": "https://example.org", "num_turns": 2}
    layout, found, _ = read(
        row
        | {
            k: v
            for k, v in more.items()
            if name.split()[0] not in ("plain", "prompts", "questions") or k != "num_turns"
        }
    )
    assert (layout, found) == read(row)[:2]


@pytest.mark.parametrize(
    ("column", "labels", "expected"),
    [
        ("stars", [1, 2, 3, 4, 5], [0, 0.25, 0.5, 0.75, 1]),
        ("rating", ["1", "10"], [0, 1]),
        ("label", ["1 star", "3 stars", "5 stars"], [0, 0.5, 1]),
        ("label", ["negative", "neutral", "positive"], [0, 0.5, 1]),
        ("label", ["very negative", "negative", "positive", "very positive"], [0, 0.25, 0.75, 1]),
        ("target", [0, 2, 4], [0, 0.5, 1]),
        ("label", [0.25, 0.5, 1.0], [0.25, 0.5, 1]),
    ],
)
def test_scales(column: str, labels: list[Any], expected: list[float]) -> None:
    found = read(*({"text": f"film {i}", column: label} for i, label in enumerate(labels)))[1]
    assert [text.label for text in found] == expected


@pytest.mark.parametrize(
    ("positive", "expected"),
    [(">=4", [0, 0, 0, 1, 1]), (">2", [0, 0, 1, 1, 1]), ("<=1", [1, 0, 0, 0, 0]), ("4,5", [0, 0, 0, 1, 1])],
)
def test_the_user_names_the_good_labels(positive: str, expected: list[int]) -> None:
    rows = [{"text": f"film {i}", "label": i} for i in range(1, 6)]
    assert [text.label for text in read(*rows, positive=positive)[1]] == expected


def test_transcripts_keep_earlier_turns_in_the_prompt() -> None:
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    row = {
        name: [vars(turn) for turn in (*turns, Message("assistant", reply))]
        for name, reply in (("chosen", "yes"), ("rejected", "no"))
    }
    (found,) = read(row)[1]
    assert found == Comparison(tuple(turns), (Message("assistant", "yes"),), (Message("assistant", "no"),), "a")


def test_rows_that_cannot_be_learned_from_are_counted() -> None:
    user, reply = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    rows: list[list[dict[str, Any]]] = [
        [user, reply, user],
        [user],
        [user, reply | {"tool_calls": [{}]}],
        [user, reply | {"weight": 0}],
        [{"role": "user", "content": [{"type": "image_url"}]}, reply],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}, reply],
    ]
    _, found, dropped = read(*({"messages": turns} for turns in rows))
    assert found == [Demonstration((Message("user", "x"),), (Message("assistant", "y"),))] * 2
    assert dropped == {
        "no reply of an assistant": 1,
        "tool calls": 1,
        "turns of weight 0": 1,
        "images or other media": 1,
    }
