"""A data set that is stored gives what it gives in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data import stored
from plaudit.data.corpus import load
from plaudit.data.hashed import Record
from plaudit.data.options import Config
from plaudit.data.splits import Splits, split
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Ranking, Text

Write = Callable[[str, "str | bytes"], Path]

WORDS = [f"{word} {i}" for i in range(12) for word in ("text", "TEXT ", "т\u0435кст", "caf\u00e9", "cafe\u0301")]
PLAIN = st.sampled_from(WORDS)
TURNS = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), PLAIN)
DIALOGUES = st.lists(TURNS, min_size=1, max_size=3).map(tuple)
MARKED = st.builds("\n\nHuman: {}\n\nAssistant: {}".format, PLAIN, PLAIN)
TEXTS: st.SearchStrategy[Text] = st.one_of(PLAIN, DIALOGUES, MARKED)
PROMPTS: st.SearchStrategy[Text] = st.one_of(st.just(""), TEXTS)
PEOPLE = st.sampled_from(["", "ann", "bob"])
LABELS = st.sampled_from([0, 1, 0.25, 0.5, 0.75])
JUDGED = st.one_of(
    st.builds(LabelledText, TEXTS, LABELS, PROMPTS),
    st.builds(Comparison, PROMPTS, TEXTS, TEXTS, st.sampled_from(["a", "b", "tie"]), PEOPLE, st.sampled_from([0.0, 2.5])),
    st.builds(Ranking, PROMPTS, st.lists(TEXTS, min_size=2, max_size=4).map(tuple), PEOPLE),
)
IMITATED = st.builds(Demonstration, PROMPTS, TEXTS)
RECORDS: st.SearchStrategy[list[Record]] = st.one_of(
    st.lists(JUDGED, max_size=60), st.lists(st.one_of(JUDGED, IMITATED), max_size=60)
)
FILLERS: list[list[Record]] = [
    [LabelledText(f"filler {i}", i % 2) for i in range(100)],
    [Demonstration(f"filler {i}", f"more {i}") for i in range(100)],
    [Comparison(f"filler {i}", f"good {i}", f"bad {i}", "b") for i in range(100)],
    [Comparison("", f"good {i}", f"bad {i // 2}", "a") for i in range(200)],
    [Ranking((Message("user", f"filler {i}"),), (f"good {i}", f"bad {i}")) for i in range(100)],
]


def store(folder: Path, records: Iterable[Record], held_out: Iterable[Record], dropped: Counter[str]) -> Splits:
    def fill(train: stored.Collect, evaluation: stored.Collect) -> tuple[Counter[str], tuple[()]]:
        train(records)
        evaluation(held_out)
        return Counter(dropped), ()

    return stored.build("x", folder, fill)


def result(action: Callable[[], Splits]) -> object:
    """All that a data set consists of, or the error."""
    try:
        splits = action()
    except DataError as error:
        return str(error)
    contents = {name: [list(map(repr, kind)) for kind in vars(part).values()] for name, part in splits.parts.items()}
    return contents, splits.dropped, splits.warning, splits.fingerprint, splits.name, splits.readings


@settings(max_examples=150, deadline=None)
@given(RECORDS, RECORDS, st.sampled_from(FILLERS), st.sampled_from([0, 0, 30]))
def test_stored_and_in_memory_a_data_set_is_the_same(
    records: list[Record], held_out: list[Record], filler: list[Record], unlabelled: int
) -> None:
    dropped = Counter({"unlabelled": unlabelled})
    everything = [*records[::2], *filler, *records[1::2]]
    plain = result(lambda: split("x", everything, held_out, dropped))
    with TemporaryDirectory() as folder:
        path = Path(folder, "cache", "a-b")
        assert result(lambda: store(path, everything, held_out, dropped)) == plain
        assert path.is_dir() == (not isinstance(plain, str))  # nothing is left of data that are refused
        if not isinstance(plain, str):
            again = stored.opened(path)
            assert again is not None
            assert result(lambda: again) == plain
