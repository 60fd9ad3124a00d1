"""A judge, its alarm and its prompts only for data that they fit."""

import dataclasses
import json

import pytest
from tiny import BAD, GOOD

from plaudit.cli import console, main
from plaudit.data.splits import Part, Splits
from plaudit.evaluation.evaluate import SHOWN_PROMPTS
from plaudit.evaluation.hacking import Window, hacking_warnings
from plaudit.evaluation.judge import judge_for
from plaudit.evaluation.report.words import verdict
from plaudit.records import Comparison, LabelledText

RUSSIAN = ["хороший фильм", "прекрасная игра"], ["плохой фильм", "скучная игра"]


def data(texts, name="mine.csv"):
    part = Part(tuple(LabelledText(text, label) for text, label in texts))
    return Splits(name, part, part, part, {})


def numbered(good, bad):
    return [(f"{text} {i}", label) for i in range(10) for texts, label in ((good, 1), (bad, 0)) for text in texts]


def test_the_judge_fits_the_built_in_data_and_other_film_reviews():
    assert judge_for(data([], "movie-reviews"))[0] is not None
    assert judge_for(data(numbered(GOOD, BAD))) == (judge_for(data([], "movie-reviews"))[0], "")


@pytest.mark.parametrize(
    "texts",
    [
        numbered(*RUSSIAN),
        numbered(["the sum is even", "the answer is four"], ["the sum is odd", "the answer is five"]),
        [(text, 1 - label) for text, label in numbered(GOOD, BAD)],
        numbered(GOOD, [])[:10],  # all positive
        numbered(GOOD, GOOD),  # as many of either label
        numbered(GOOD, BAD)[:4],  # too few
        [],
    ],
)
def test_the_judge_does_not_fit_other_texts_and_says_why(texts):
    judge, reason = judge_for(data(texts))
    assert judge is None
    assert "film reviews" in reason
    assert "\n" not in reason


def test_without_labels_the_judge_does_not_fit():
    part = Part(comparisons=(Comparison("p", "a", "b", "a"),))
    assert "no labelled held-out texts" in judge_for(Splits("pairs.jsonl", part, part, part, {}))[1]


def test_there_is_no_alarm_by_a_judge_that_does_not_fit():
    windows = [Window(i, 640, i / 10, 0.1, None, 0.8, 15.0) for i in range(10)]
    assert hacking_warnings(windows) == []
    falling = [dataclasses.replace(w, distinct_2=0.8 / (1 + w.step)) for w in windows]
    assert [w.measure for w in hacking_warnings(falling)] == ["distinct_2"]


@pytest.fixture(scope="module")
def russian_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("russian")
    rows = [f"{i} {text},{label}\n" for i, (text, label) in enumerate(numbered(*RUSSIAN) * 3)]
    (folder / "data.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    flags = ["--sft.epochs", "1", "--reward-model.epochs", "1", "--ppo.iterations", "1", "--ppo.batch-size", "8"]
    flags += ["--ppo.minibatch-size", "8", "--ppo.max-new-tokens", "8", "--evaluation.prompts", "8"]
    flags += ["--prompt-min", "1", "--prompt-max", "2", "--sft.max-tokens", "120", "--reward-model.max-tokens", "120"]
    assert main(["run", "--data", str(folder / "data.csv"), "--out", str(folder / "run"), *flags]) == 0
    return folder / "run"


def test_a_run_on_other_data_has_no_judge_figures_and_says_why(russian_run, capsys):
    evaluation = json.loads((russian_run / "evaluation.json").read_text())
    assert [evaluation[model]["judge_positive"] for model in ("sft", "ppo", "policy")] == [None] * 3
    assert evaluation["meta"]["judge"] is evaluation["meta"]["judge_difference_ci95"] is None
    reason = evaluation["meta"]["no_judge"]
    assert "does not fit the data" in reason
    assert reason in verdict(evaluation, [], None)
    console.headline(russian_run)
    assert "does not fit the data" in " ".join(capsys.readouterr().out.split())
    assert reason in (russian_run / "report.html").read_text(encoding="utf-8")
    assert "_judge" not in (russian_run / "responses.jsonl").read_text()


def test_sample_prompts_and_hints_are_of_the_own_data(russian_run, capsys):
    samples = [json.loads(line)["prompt"] for line in (russian_run / "samples.jsonl").read_text().splitlines()]
    asked = [json.loads(line)["prompt"] for line in (russian_run / "responses.jsonl").read_text().splitlines()]
    assert samples == asked[: len(SHOWN_PROMPTS)]
    console.summary(russian_run, {"data.name": "data.csv", "seed": 1, "ppo.kl_coef": 0.1}, {})
    hints = capsys.readouterr().out.partition("What next?")[2]
    assert any(prompt in hints for prompt in samples)
    assert "film" not in hints
    assert "own texts" not in hints
