import random
import time
from collections import Counter

import pytest

from plaudit.config import build
from plaudit.data.corpus import load
from plaudit.data.near_copies import near_copies, near_copies_in
from plaudit.data.splits import split
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt

WORDS = [f"word{i}" for i in range(3000)]


def text(seed, n=14):
    return " ".join(random.Random(seed).choices(WORDS, k=n))


CHANGES = {
    "nothing": lambda words: words,
    "case": lambda words: [w.title() for w in words],
    "punctuation": lambda words: [f"{w}," for w in words] + ["!"],
    "a word": lambda words: [*words[:4], "another", *words[5:]],
    "the end": lambda words: words[:10],
    "more around it": lambda words: ["well", "then", *words, "the", "end"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_held_out_text_that_differs_a_little_from_one_in_training_is_found(change):
    train = [text(i) for i in range(50)]
    held_out = [text(100 + i) for i in range(20)] + [" ".join(CHANGES[change](train[7].split()))]
    found = near_copies(train, held_out)
    assert (found["count"], found["texts"]) == (1, 21)
    assert found["example"] == {"held_out": held_out[-1], "training": train[7]}


def test_a_held_out_text_inside_a_longer_training_text_is_found():
    held_out = [text(i) for i in range(10)]
    assert near_copies([f"{text(50)} {held_out[3]} {text(51)}"], held_out)["count"] == 1


def test_words_in_common_are_no_copy():
    words = text(0, 20).split()
    shuffled = [" ".join(random.Random(i).sample(words, 20)) for i in range(1, 30)]
    assert near_copies([" ".join(words)], shuffled) == {"count": 0, "texts": 29}


def test_short_texts_are_alike_by_chance():
    assert near_copies(["a good film for all"], ["A good film for all."]) == {"count": 0, "texts": 0}


def test_a_template_that_many_texts_share_is_no_copy():
    template = text(0, 30)
    train, held_out = ([f"{template} {text(i, 10)}" for i in range(low, low + 40)] for low in (1, 100))
    assert near_copies(train, held_out) == {"count": 0, "texts": 40}
    assert near_copies(train, [*held_out, train[3].upper()])["count"] == 1


SYSTEM = Message("system", text(1, 40))
KINDS = {
    "labels": lambda i, end: LabelledText(f"{text(i)}{end}", i % 2),
    "labels with prompts": lambda i, end: LabelledText(f"{text(i + 500)}{end}", i % 2, f"{text(i)}{end}"),
    "demonstrations": lambda i, end: Demonstration(f"{text(i)}{end}", f"{text(i + 500)}{end}"),
    "comparisons": lambda i, end: Comparison(f"{text(i)}{end}", f"{text(i + 500)}{end}", text(i + 900), "a"),
    "dialogues": lambda i, end: Demonstration((SYSTEM, Message("user", f"{text(i)}{end}")), f"{text(i + 500)}{end}"),
    "prompts": lambda i, end: Prompt(f"{text(i)}{end}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copies", [0, 7])
def test_two_files_of_every_kind_of_record(kind, copies):
    given = [KINDS[kind](i, ".") for i in range(200)]
    held_out = [KINDS[kind](i if i < copies else 300 + i, "?!") for i in range(40)]
    found = near_copies_in(split("x", given, held_out, Counter()))
    of_two = 2 if kind == "comparisons" else 1  # the second response is an exact copy, and so is the first
    assert copies <= found["count"] <= of_two * copies * 2
    assert bool(found["count"]) == bool(copies)


def test_the_embedded_data_have_no_near_copies():
    found = near_copies_in(load(build({}).data))
    assert found["texts"] > 700
    assert found["count"] == 0


def test_many_texts_take_seconds():
    train = (text(i, 20) for i in range(20_000))
    began = time.process_time()
    assert near_copies(train, [text(1_000_000 + i, 20) for i in range(900)])["count"] == 0
    assert time.process_time() - began < 15
