"""A data set that is stored gives what it gives in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from plaudit.data import corpus, files, hub, stored
from plaudit.data.corpus import load
from plaudit.data.hashed import Record
from plaudit.data.options import Config
from plaudit.data.splits import KINDS, Splits, split
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText, Message, Prompt, Ranking

Write = Callable[[str, "str | bytes"], Path]

LIKE_JSON = ['}, {"text": "', '}, {"prompt": "', "}, {", '", "label": 1}, {"text": "x', "\\", '"', "[]", "\n"]
WORDS = [f"{word} {i}" for i in range(12) for word in ("text", "TEXT ", "текст", "caf\u00e9", "cafe\u0301")]
WORDS += LIKE_JSON
PLAIN = st.sampled_from(WORDS)
DIALOGUES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), PLAIN), min_size=1, max_size=3
)
MARKED = st.builds("\n\nHuman: {}\n\nAssistant: {}".format, PLAIN, PLAIN)
TEXTS = st.one_of(PLAIN, DIALOGUES.map(tuple), MARKED)
PROMPTS = st.one_of(st.just(""), TEXTS)
PEOPLE = st.sampled_from(["", "ann", "bob"])
CHOICES = st.sampled_from(["a", "b", "tie"])
LABELS = st.sampled_from([0, 1, 0.25, 0.5, 0.75])
# A kind and its fields: records that beartype checks are made in the test, because it draws random numbers itself.
JUDGED = st.one_of(
    st.tuples(st.just(LabelledText), TEXTS, LABELS, PROMPTS),
    st.tuples(st.just(Comparison), PROMPTS, TEXTS, TEXTS, CHOICES, PEOPLE, st.sampled_from([0.0, 2.5])),
    st.tuples(st.just(Ranking), PROMPTS, st.lists(TEXTS, min_size=2, max_size=4).map(tuple), PEOPLE),
)
IMITATED = st.one_of(st.tuples(st.just(Demonstration), PROMPTS, TEXTS), st.tuples(st.just(Prompt), TEXTS))
FIELDS = st.one_of(st.lists(JUDGED, max_size=60), st.lists(st.one_of(JUDGED, IMITATED), max_size=60))
FILLERS: list[list[Record]] = [
    [LabelledText(f"filler {i}", i % 2) for i in range(100)],
    [Demonstration(f"filler {i}", f"more {i}") for i in range(100)],
    [Comparison(f"filler {i}", f"good {i}", f"bad {i}", "b") for i in range(100)],
    [Comparison("", f"good {i}", f"bad {i // 2}", "a") for i in range(200)],
    [LabelledText(f"filler {i}", i % 2, f"Filler {i}") for i in range(100)],
    [Ranking((Message("user", f"filler {i}"),), (f"good {i}", f"bad {i}")) for i in range(100)],
    [Prompt(f"filler {i}") for i in range(100)],
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


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes long
@given(FIELDS, FIELDS, st.sampled_from(FILLERS), st.sampled_from([0, 0, 30]))
def test_stored_and_in_memory_a_data_set_is_the_same(
    fields: list[tuple[Any, ...]], held_out_fields: list[tuple[Any, ...]], filler: list[Record], unlabelled: int
) -> None:
    records, held_out = ([kind(*values) for kind, *values in some] for some in (fields, held_out_fields))
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


@pytest.mark.parametrize("size", [1, 2, 1 << 8])
def test_records_that_are_encoded_together_are_encoded_as_alone(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_ENCODED", size)
    texts = [f"{one}{other}" for one in LIKE_JSON for other in LIKE_JSON]
    turns = [(Message("user", text), Message(text, '"role"')) for text in texts]
    records: list[Record] = [
        *(LabelledText(text, i % 2, prompt) for i, (text, prompt) in enumerate(zip(texts, texts[::-1], strict=True))),
        *(LabelledText(text, -0.0) for text in texts),
        *(Demonstration(turn, (Message("assistant", text),)) for turn, text in zip(turns, texts, strict=True)),
        *(Comparison(text, f"a {text}", f"b {text}", "tie", margin=0.1) for text in texts),
        *(Ranking(turn, (text, f"a {text}"), "ann") for turn, text in zip(turns, texts, strict=True)),
    ]
    for kind in KINDS:
        some = [vars(record) for record in records if type(record) is kind]
        assert stored._contents(some) == [json.dumps(one, default=vars).encode() for one in some]
    plain = result(lambda: split("x", records, [], Counter()))
    with TemporaryDirectory() as folder:
        assert result(lambda: store(Path(folder, "cache", "a-b"), records, [], Counter())) == plain
    assert not isinstance(plain, str)


def test_a_prompt_differs_from_a_text_in_the_same_place(tmp_path: Path) -> None:
    rankings: list[Record] = [Ranking("", ("one", "two", "three")), Ranking("one", ("two", "three"))]
    records = [*rankings, *FILLERS[5]]
    assert store(tmp_path / "a-b", records, [], Counter()).dropped == {}


def test_records_are_a_sequence(tmp_path: Path) -> None:
    filler = [LabelledText(f"film {i}", i % 2) for i in range(200)]
    found = store(tmp_path / "a-b", filler, [], Counter()).train.labelled
    expected = split("x", filler, [], Counter()).train.labelled
    assert (len(found), list(found), list(reversed(found))) == (len(expected), list(expected), list(expected)[::-1])
    assert (found[3], found[-1], found[-len(found)]) == (expected[3], expected[-1], expected[0])
    for places in (slice(5), slice(3, 9), slice(-4, None), slice(None, None, -3), slice(9, 3)):
        assert (len(found[places]), tuple(found[places])) == (len(expected[places]), expected[places])
    assert expected[7] in found
    assert found[3:9][1:3][0] == expected[4]
    for outside in (len(found), -len(found) - 1):
        with pytest.raises(IndexError):
            found[outside]
    assert not found[:0]


ROWS = {
    "t.csv": "text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(200)),
    "t.jsonl": "\n".join(
        json.dumps({"prompt": f"ask {i // 2}", "ranked_responses": [f"good {i}", f"bad {i}"]}) for i in range(200)
    ),
    "t.json": json.dumps(
        [{"messages": [{"role": r, "content": f"{r} {i}"} for r in ("user", "assistant")]} for i in range(200)]
    ),
    "t.tsv": "prompt\tresponse_a\tresponse_b\tchoice\n" + "".join(f"ask {i}\tyes\tno\tb\n" for i in range(200)),
}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set is large; the folder of the entries."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(stored, "ROWS", 1)
    monkeypatch.setenv("PLAUDIT_CACHE", str(cache))
    return cache / "data"


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def refuse_to_read(*args: object) -> None:
    raise AssertionError("the files are read again")


@pytest.mark.parametrize("name", ROWS)
def test_a_large_file_is_read_once(name: str, write: Write, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(name, ROWS[name]))
    with monkeypatch.context() as small:
        small.setattr(stored, "ROWS", 1000)
        plain = result(lambda: load(path))
        assert not large.exists()
    corpus._load.cache_clear()
    assert result(lambda: load(path)) == plain
    assert len(entries(large)) == 1
    corpus._load.cache_clear()  # as another process
    monkeypatch.setattr(corpus, "_tables", refuse_to_read)
    assert result(lambda: load(path)) == plain


def test_a_changed_file_and_other_settings_are_read_again(write: Write, large: Path) -> None:
    path = write("t.csv", ROWS["t.csv"])
    first = load(str(path))
    [entry] = entries(large)
    other = load(Config(str(path), positive="0"))
    assert len(entries(large)) == 2
    assert other.fingerprint != first.fingerprint
    write("t.csv", ROWS["t.csv"].replace("film 7,", "film x,"))  # same size
    assert "film x" in {text.text for part in load(str(path)).parts.values() for text in part.labelled}
    assert len(entries(large)) == 2  # the entry for the old content is removed
    assert entry not in entries(large)
    assert sum(len(part.labelled) for part in first.parts.values()) == 200


def test_entries_that_nobody_opens_are_removed(write: Write, large: Path) -> None:
    paths = [write(f"{i}.csv", ROWS["t.csv"] + f"more {i},1\n") for i in range(3)]
    load(str(paths[0]))
    for path in [*large.iterdir(), *large.rglob("*")]:
        os.utime(path, (0, 0))
    load(str(paths[1]))
    assert len(entries(large)) == 1
    load(str(paths[2]))
    assert len(entries(large)) == 2


@pytest.mark.parametrize("damaged", ["records.arrow", "splits.json"])
def test_a_damaged_entry_is_written_again(damaged: str, write: Write, large: Path) -> None:
    path = str(write("t.csv", ROWS["t.csv"]))
    plain = result(lambda: load(path))
    corpus._load.cache_clear()
    (large / entries(large)[0] / damaged).write_bytes(b"{")
    assert result(lambda: load(path)) == plain
    assert len(entries(large)) == 1


def test_without_a_cache_the_data_are_in_memory(write: Write, large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write("t.csv", ROWS["t.csv"]))
    plain = result(lambda: load(path))
    corpus._load.cache_clear()
    shutil.rmtree(large)
    large.write_text("a file where the folder should be")
    assert result(lambda: load(path)) == plain
    assert isinstance(load(path).train.labelled, tuple)
    told = capsys.readouterr().err
    assert told.startswith(f"{path}: {large} cannot be written (")
    assert told.endswith("set PLAUDIT_CACHE to another folder\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(("rows", "size", "large"), [(199_999, 1 << 20, False), (200_000, 1, True), (9, 1 << 28, True)])
def test_rows_or_bytes_make_a_data_set_large(rows: int, size: int, large: bool) -> None:
    assert stored.is_large(rows, size) is large


def test_data_that_are_refused_leave_nothing(write: Write, large: Path) -> None:
    path = write("t.csv", ROWS["t.csv"] + "one more,good or not\n")
    with pytest.raises(DataError, match="line 202: label"):
        load(str(path))
    assert not entries(large)


def test_data_of_the_hub_are_stored_and_read_again(
    large: Path, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("t.csv", ROWS["t.csv"])
    monkeypatch.setattr(hub, "sources", lambda name, config, revision, choose: choose(files.sources(tmp_path)))
    first = load("owner/name")
    assert isinstance(first.train.labelled, stored.Records)
    write("t.csv", ROWS["t.csv"] + "one more,1\n")  # a branch can move
    corpus._load.cache_clear()
    assert load("owner/name").fingerprint != first.fingerprint
    assert len(entries(large)) == 1
