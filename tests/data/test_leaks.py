"""No text, prompt or dialogue is in two of train, prompts and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data.hashed import Record, common_beginning
from plaudit.data.splits import Part, Splits, split
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking, Text, transcript

Refused = Callable[[Callable[[], object]], str]
COUNT = 400


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def contents(part: Part) -> set[str]:
    """Every whole text and every prompt of a part, demonstrations derived from other records included."""
    found: set[Text] = {t.text for t in part.labelled if not t.prompt}
    for d in part.demonstrations:
        found.add(d.prompt or d.response)
    found |= {t.prompt for t in part.labelled if t.prompt}
    for c in part.comparisons:
        found |= {c.prompt} if c.prompt else {c.response_a, c.response_b}
    for r in part.rankings:
        found |= {r.prompt} if r.prompt else set(r.responses)
    return {plain(transcript(text)) for text in found}


def shared(splits: Splits) -> set[str]:
    parts = [contents(part) for part in splits.parts.values()]
    return set().union(*(one & other for one, other in combinations(parts, 2)))


def promptless(i: int) -> list[Record]:
    return [Comparison("", f"good {i}", f"bad {i}", "a")]


def chained(i: int) -> list[Record]:  # each pair has a text in common with the next of its group of four
    return [] if i % 4 == 3 else [Comparison("", f"text {i}", f"TEXT  {i + 1}", "b")]


def labelled_too(i: int) -> list[Record]:
    return [LabelledText(f"text {i}", i % 2), Comparison("", f"Text {i}", f"other {i}", "a")]


def demonstrated_too(i: int) -> list[Record]:
    return [Demonstration("", f"good {i}"), Comparison("", f"bad {i}", f"good {i}", "b")]


def answers_to_one_prompt(i: int) -> list[Record]:
    return [Comparison(f"ask {i // 5}", f"good {i}", f"bad {i}", "a")]


def answer_as_a_text(i: int) -> list[Record]:  # the response to a prompt is also a labelled text
    return [Demonstration(f"ask {i}", f"answer {i}"), LabelledText(f"answer {i}", i % 2)]


def dialogue(i: int) -> list[Record]:  # the second of two turns
    first = f"\n\nHuman: ask {i}\n\nAssistant:"
    longer = f"{first} which?\n\nHuman: that\n\nAssistant:"
    return [Comparison(first, f" good {i}", f" bad {i}", "a"), Comparison(longer, f" fine {i}", f" poor {i}", "a")]


def ranked(i: int) -> list[Record]:  # every response of a ranking without a prompt is a whole text
    return [Ranking("", (f"best {i}", f"good {i}", f"bad {i}")), Comparison("", f"Bad {i}", f"other {i}", "b")]


def ranked_answers(i: int) -> list[Record]:
    return [Ranking(f"ask {i // 5}", (f"good {i}", f"bad {i}")), Comparison(f"ASK  {i // 5}", f"a {i}", f"b {i}", "a")]


def messages(i: int) -> list[Record]:  # a ranking and a comparison after the first and the second question
    first = (Message("system", "Be kind."), Message("user", f"ask {i}"))
    longer = (*first, Message("assistant", "which?"), Message("user", "that"))
    return [Ranking(first, (f"good {i}", f"bad {i}")), Comparison(longer, f"fine {i}", f"poor {i}", "a")]


KINDS = [promptless, chained, labelled_too, demonstrated_too, answers_to_one_prompt, answer_as_a_text, dialogue]
KINDS += [ranked, ranked_answers, messages]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_held_out", [False, True])
def test_no_text_or_prompt_is_in_two_parts(kind: Callable[[int], list[Record]], with_held_out: bool) -> None:
    records = [record for i in range(COUNT) for record in kind(i)]
    held_out = [record for i in range(0, COUNT, 10) for record in kind(i)] if with_held_out else []
    splits = split("x", records, held_out, Counter())
    assert all(contents(part) for part in splits.parts.values())
    assert not shared(splits)
    train = len(splits.train.comparisons or splits.train.labelled)
    total = sum(len(part.comparisons or part.labelled) for part in splits.parts.values())
    assert 0.7 < train / total < 0.9


def test_both_lengths_of_a_dialogue_are_in_one_part() -> None:
    splits = split("x", [record for i in range(COUNT) for record in dialogue(i)], [], Counter())
    openings = [{c.prompt.split("\n\n")[1] for c in part.comparisons} for part in splits.parts.values()]
    assert sum(map(len, openings)) == COUNT


def test_pairs_of_texts_that_begin_with_the_same_lines_are_in_one_part() -> None:
    """Other mark-ups of dialogues, too: the lines that both texts of a pair begin with are their dialogue."""
    answers = [("fine", "bad"), ("great", "poor")]
    records: list[Record] = [
        Comparison("", f"### User: ask {i}\n### Bot: {a} {i}", f"### User: ask {i}\n### Bot: {b} {i}", "a")
        for i in range(COUNT)
        for a, b in answers
    ]
    splits = split("x", records, [], Counter())
    openings = [{c.response_a.split("\n")[0] for c in part.comparisons} for part in splits.parts.values()]
    assert sum(map(len, openings)) == COUNT


def test_a_text_composed_in_two_ways_is_one_text() -> None:
    records: list[Record] = [Comparison("", f"caf\u00e9 {i}", f"bad {i}", "a") for i in range(COUNT)]
    records += [Comparison("", f"cafe\u0301 {i}", f"poor {i}", "a") for i in range(COUNT)]
    splits = split("x", records, [], Counter())
    numbers = [{c.response_a.split()[-1] for c in part.comparisons} for part in splits.parts.values()]
    assert sum(map(len, numbers)) == COUNT


def test_records_that_all_share_texts_are_refused_with_their_number(refused: Refused) -> None:
    records: list[Record] = [Comparison("", f"good {i}", "I do not know", "a") for i in range(COUNT)]
    message = refused(lambda: split("x", records, [], Counter()))
    assert "100% of the records share texts or prompts" in message


@given(st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_the_common_beginning_of_two_texts(one: str, other: str) -> None:
    found = common_beginning(one, other)
    assert one.startswith(found)
    assert other.startswith(found)
    assert found in (one, other) or one[len(found)] != other[len(found)]


WORDS = st.sampled_from([f"text {i}" for i in range(60)] + [f"TEXT  {i}" for i in range(60)])
TURNS = st.builds(lambda text: (Message("user", text),), WORDS)
PROMPTS = st.one_of(st.just(""), WORDS, TURNS)
# A kind and its fields: records that beartype checks are made in the test, because it draws random numbers itself.
FIELDS = st.one_of(
    st.tuples(st.just(LabelledText), WORDS, st.sampled_from([0, 1]), PROMPTS),
    st.tuples(st.just(Demonstration), PROMPTS, WORDS),
    st.tuples(st.just(Comparison), PROMPTS, WORDS, WORDS, st.sampled_from(["a", "b", "tie"])),
    st.tuples(st.just(Ranking), PROMPTS, st.lists(WORDS, min_size=2, max_size=4).map(tuple)),
    st.tuples(st.just(Prompt), WORDS),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(FIELDS, max_size=60), st.lists(FIELDS, max_size=20))
def test_random_records_share_nothing_between_parts(
    fields: list[tuple[Any, ...]], held_out_fields: list[tuple[Any, ...]]
) -> None:
    records, held_out = ([kind(*values) for kind, *values in some] for some in (fields, held_out_fields))
    filler: list[Record] = [
        *(LabelledText(f"filler {i}", i % 2) for i in range(100)),
        *(Demonstration(f"filler {i}", f"more {i}") for i in range(100)),
    ]
    try:
        splits = split("x", [*filler, *records], held_out, Counter())
    except DataError:  # too much is left out, or nothing is left for a part
        return
    assert not shared(splits)
