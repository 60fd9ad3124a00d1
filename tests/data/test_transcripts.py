"""Transcripts become conversations where the setting asks for it, and nothing else changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.data.corpus import load
from plaudit.data.options import Config
from plaudit.data.transcripts import spoken
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking, transcript

ASK, HELLO = Message("user", "May I pick berries here?"), Message("assistant", "Which forest is it?")
WHERE = Message("user", "The one by the lake.")
PROMPT = (
    "\n\nHuman: May I pick berries here?\n\nAssistant: Which forest is it?\n\nHuman: The one by the lake.\n\nAssistant:"
)
DIALOGUE = (ASK, HELLO, WHERE)
YES, NO = (Message("assistant", "Yes, you may."),), (Message("assistant", "No."),)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Comparison(PROMPT, " Yes, you may.", " No.", "a"), Comparison(DIALOGUE, YES, NO, "a")),
        (Demonstration(PROMPT, "Yes, you may."), Demonstration(DIALOGUE, YES)),
        (Demonstration("", f"{PROMPT} No."), Demonstration((), (*DIALOGUE, *NO))),
        (LabelledText("No.", 0, PROMPT), LabelledText(NO, 0, DIALOGUE)),
        (Prompt(PROMPT), Prompt(DIALOGUE)),
        (Ranking(PROMPT, ("Yes, you may.", "No.")), Ranking(DIALOGUE, (YES[0:], NO))),
        (
            Comparison(PROMPT, "No.\n\nHuman: Why?\n\nAssistant: It is not mine.", "No.", "b"),
            Comparison(DIALOGUE, (*NO, Message("user", "Why?"), Message("assistant", "It is not mine.")), NO, "b"),
        ),
    ],
)
def test_a_transcript_becomes_a_conversation(before, after):
    assert spoken(before) == after
    assert spoken(after) == after


@pytest.mark.parametrize(
    "record",
    [
        Demonstration("the film is", "good"),
        Demonstration("", "Human: a film about people"),
        Demonstration("She said: Human: is it?\n\nAssistant:", "Yes."),
        Comparison("Human: is it?", "Yes.", "No.", "a"),
        LabelledText("a warm film", 1),
    ],
)
def test_other_texts_stay_as_they_are(record):
    assert spoken(record) == record


words = st.text(st.sampled_from("ab c."), min_size=1).map(lambda text: f"x{text}x")


@given(st.lists(words, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
def test_what_transcript_writes_is_read_back(turns):
    dialogue = tuple(Message(("user", "assistant")[i % 2], said) for i, said in enumerate(turns))
    record = Demonstration(f"{transcript(dialogue)}\n\nAssistant:", "yes")
    assert spoken(record) == Demonstration(dialogue, (Message("assistant", "yes"),))


def test_a_file_of_transcripts_is_read_as_the_setting_says(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{k: f"\n\nHuman: Is {i} odd?\n\nAssistant: {k}" for k in ("chosen", "rejected")} for i in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = load(str(path)).train.comparisons[0]
    assert text.prompt.endswith("odd?\n\nAssistant:")
    spoken_one = load(Config(str(path), transcripts="conversations")).train.comparisons[0]
    assert spoken_one.prompt == (Message("user", spoken_one.prompt[0].content),)
    assert spoken_one.response_a == (Message("assistant", "chosen"),)
