"""`plaudit data` says how a data set is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plaudit.cli import main


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    rows = [{"id": i, "review": f"film {i}", "stars": 1 + i % 5} for i in range(200)]
    rows.append({"id": 200, "review": "", "stars": 3})
    path = tmp_path / "ratings.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_layout_columns_counts_splits_and_examples_are_shown(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(ratings), "--no-tokens"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "layout labelled texts (columns 'review', 'stars')" in lines
    assert "labels 1 (bad) to 5 (good), on a scale from 0 to 1" in lines
    assert "used review, stars" in lines
    assert "ignored id" in lines
    assert "rows 201, of which 200 are read; 1 empty" in lines
    assert lines.count("LabelledText") == 3
    assert any(line.startswith("train 1") and "good)" in line for line in lines)
    assert "left out 1 empty" in lines
    assert lines[-1] == f"Next: plaudit run --data {ratings}"


def test_flags_change_how_it_is_read(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["data", str(ratings), "--positive", ">=5", "--data.columns", "text=review,label=stars", "--no-tokens"])
        == 0
    )
    assert ">=5 = 1 (good), the others = 0 (bad)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (
            ["--positive", "splendid"],
            1,
            "no label 'splendid' (--positive) in column 'stars'; found '1', '2', '3', '4', '5'",
        ),
        (["--data.columns", "text"], 2, "data.columns: 'text' is not NAME=COLUMN, as in text=body,label=stars"),
        (["--data.columns", "text=remark"], 1, "--data.columns gives no 'text' here; found 'id', 'review', 'stars'"),
        (["--data.split", "dev"], 1, "no split or file 'dev' (data.split); found 'ratings'"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(
    flags: list[str], code: int, message: str, ratings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(ratings), "--no-tokens", *flags]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_flags_that_do_not_go_with_the_built_in_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "movie-reviews", "--positive", "1"]) == 2
    assert "data.positive: does not go with the built-in data set 'movie-reviews'" in capsys.readouterr().err


def test_a_separate_evaluation_file(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "more.csv"
    other.write_text("text,stars\n" + "".join(f"held out {i},{1 + i % 5}\n" for i in range(30)))
    assert main(["data", str(ratings), "--data.evaluation", str(other), "--no-tokens"]) == 0
    out = capsys.readouterr().out
    assert "evaluation  30 labelled" in out
    assert "held out" in out


def test_nothing_slow_is_imported(ratings: Path) -> None:
    code = (
        f"import sys; from plaudit.cli import main; main(['data', {str(ratings)!r}, '--no-tokens']); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
