"""Runs with a reward of the user's own: what is logged, refused and resumed."""

import dataclasses
import json
import shutil

import numpy as np
import pandas
import pytest
from tiny import GOOD

from plaudit.algorithms.ppo import ppo
from plaudit.algorithms.reinforce import reinforce
from plaudit.cli import main
from plaudit.config import build
from plaudit.errors import RewardError, RunError
from plaudit.evaluation.doctor import preflight
from plaudit.evaluation.frontier import frontier
from plaudit.models.classifier import Classifier
from plaudit.models.folder import content_hash
from plaudit.pipeline import check, stages_for, steps
from plaudit.rewards import sources_of
from plaudit.training.rewards import try_reward
from plaudit.training.run import STAGES, Run

POLITE = "def score(prompts, responses):\n    return [float(len(r)) for r in responses]\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "polite.py"
    path.write_text(POLITE)
    return path


@pytest.fixture
def make(tmp_path, finished_run, tiny_config):
    """A run with the finished SFT and reward model, and a reward by its parts."""

    def make(*parts, folder="run", stages=("sft", "reward_model"), **settings) -> Run:
        for stage in stages:
            shutil.copytree(finished_run / stage, tmp_path / folder / stage)
        shutil.copy(finished_run / "config.toml", tmp_path / folder)
        return Run(tmp_path / folder, dataclasses.replace(tiny_config, reward=parts, **settings))

    return make


@pytest.mark.parametrize("algorithm", [ppo, reinforce])
def test_every_part_is_in_the_metrics_and_in_a_line_for_each_response(make, file, algorithm):
    run = make(f"{file}:score=-0.5", "model=2")
    quick = dataclasses.replace(run.config.reinforce, iterations=2, batch_size=16, minibatch_size=8, max_new_tokens=16)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, reinforce=quick))
    reports = list(algorithm(run))
    folder = run.folder(algorithm.__name__)
    rows = pandas.read_json(folder / "rollouts.jsonl", lines=True)
    assert list(rows.columns) == [
        "iteration", "prompt", "response", "score", "score.score", "score.model", "kl", "length", "ended",
    ]  # fmt: skip
    assert rows.groupby("iteration").size().tolist() == [16] * len(reports)
    assert np.allclose(rows["score"], -0.5 * rows["score.score"] + 2 * rows["score.model"], atol=1e-4)
    assert (rows["score.score"] == rows["response"].str.len()).all()
    assert rows["score.model"].std() > 0
    for report, (_, mine) in zip(reports, rows.groupby("iteration"), strict=True):
        for name in ("score", "score.score", "score.model"):
            assert report.metrics[name] == pytest.approx(mine[name].mean(), abs=1e-4)
    summary = run.summary(algorithm.__name__)
    assert summary["parts"] == {"score": -0.5, "model": 2}
    assert summary["reward"] == "-0.5 polite.py:score + 2 model"


def test_a_part_that_weighs_nothing_is_measured_and_changes_nothing(make, file):
    plain, watched = make("model=2", folder="plain"), make("model=2", f"{file}:score=0", folder="watched")
    for alone, both in zip(ppo(plain), ppo(watched), strict=True):
        assert both.metrics.pop("score.score") > 0
        assert both.metrics == alone.metrics
    assert (plain.folder("ppo") / "model.safetensors").read_bytes() == (
        watched.folder("ppo") / "model.safetensors"
    ).read_bytes()


def test_a_classifier_is_a_part_by_its_folder(make, finished_run, tmp_path):
    shutil.copytree(finished_run / "reward_model", tmp_path / "judge")
    run = make(f"{tmp_path / 'judge'}", "model")
    next(ppo(run))
    rows = pandas.read_json(run.folder("ppo") / "rollouts.jsonl", lines=True)
    expected = Classifier(str(tmp_path / "judge"))(rows["prompt"].tolist(), rows["response"].tolist())
    assert rows["score.judge"].tolist() == pytest.approx(expected, abs=1e-4)
    assert np.allclose(rows["score"], rows["score.judge"] + rows["score.model"], atol=1e-4)
    inputs = json.loads((run.folder("ppo") / "inputs.json").read_text())
    assert inputs["reward_files"] == {"judge": content_hash(tmp_path / "judge")}


BREAKS = {
    "raises": ("raise KeyError('no such word')", "KeyError: 'no such word' (polite.py, line 7) for the response "),
    "nan": ("return [float('nan')] * len(responses)", "returned nan for the response "),
    "hangs": ("import time; time.sleep(60)", "no answer in 1 s (polite.py, line 7) for the response "),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_function_that_fails_during_training_loses_nothing_and_a_repaired_one_goes_on(make, file, kind):
    """The run that failed at its fourth iteration, with a checkpoint every second one, equals one that never failed."""
    whole = make(f"{file}:score", folder="whole")
    list(ppo(whole))
    breaking, message = BREAKS[kind]
    counted = "CALLS = []\n\ndef score(prompts, responses):\n    CALLS.append(1)\n"
    file.write_text(f"{counted}\n    if len(CALLS) > 4:\n        {breaking}\n{POLITE.splitlines()[1]}\n")
    failed = make(f"{file}:score", folder="failed", reward_timeout=1.0)
    done = []
    with pytest.raises(RewardError) as caught:
        done.extend(report.step for report in ppo(failed))
    assert done == [1, 2, 3]
    assert f"reward 'polite.py:score': {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (failed.folder("ppo") / "checkpoints" / "step-00000003").exists()

    file.write_text(POLITE + "# repaired\n")
    again = Run.open(failed.path, failed.config, resume=True, overwrite=False, stages=("ppo",))
    assert again.differences(("ppo",)) == [
        "ppo was begun with another 'polite.py:score'; from here on the new one scores"
    ]
    assert [report.step for report in ppo(again)] == [4]
    assert again.differences(("ppo",)) == []
    for name in ("model.safetensors", "metrics.jsonl", "rollouts.jsonl", "tokens.jsonl"):
        assert (again.folder("ppo") / name).read_bytes() == (whole.folder("ppo") / name).read_bytes(), name


def test_another_function_or_weight_is_refused_and_another_place_of_the_file_is_not(make, file, tmp_path):
    run = make(f"{file}:score=0.5")
    reports = ppo(run)
    next(reports)
    reports.close()
    file.write_text(POLITE + "\nother = score\n")
    for reward, now in ((f"{file}:other=0.5", "0.5 polite.py:other"), (f"{file}:score=2", "2 polite.py:score")):
        config = dataclasses.replace(run.config, reward=(reward,))
        with pytest.raises(
            RunError, match=f"its ppo was trained for the reward '0.5 polite.py:score', not for .*{now}"
        ):
            Run.open(run.path, config, resume=True, overwrite=False, stages=("ppo",))
    (tmp_path / "moved").mkdir()
    moved = shutil.move(file, tmp_path / "moved")
    config = dataclasses.replace(run.config, reward=(f"{moved}:score=0.5",))
    Run.open(run.path, config, resume=True, overwrite=False, stages=("ppo",))


def test_the_reward_changes_neither_sft_nor_the_reward_model(make, file):
    plain, own = make(folder="plain"), make(f"{file}:score", folder="own")
    for stage in ("sft", "reward_model"):
        assert plain.inputs(stage) == own.inputs(stage)
        own.check_inputs(stage)


@pytest.mark.parametrize(("parts", "trained"), [((), True), (("model=2",), True), (("p.py:f=1", "model=0"), True),
                                                (("p.py:f",), False)])  # fmt: skip
def test_a_reward_model_is_trained_only_where_a_part_of_the_reward_needs_it(parts, trained):
    sources = sources_of(None, parts)
    assert ("reward_model" in stages_for(STAGES, sources)) == trained
    assert stages_for(("reward_model",), sources) == ("reward_model",)  # asked for by itself


def test_texts_without_labels_suffice_for_a_function(tmp_path, tiny_config, file, capsys):
    data = tmp_path / "texts.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"the film {i}", "response": f"is {GOOD[i % 4]}"}) + "\n" for i in range(200))
    )
    out, toml = tmp_path / "run", tmp_path / "own.toml"
    toml.write_text(f"reward = ['{file}:score=0.1']\n")
    flags = {"model": tiny_config.model, "data": str(data), "ppo.iterations": 2, "ppo.batch_size": 8,
             "ppo.minibatch_size": 8, "ppo.max_new_tokens": 8, "evaluation.prompts": 8, "sft.epochs": 1,
             "prompt_max": 3, "dtype": "float32", "device": "cpu"}  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert main(["run", "--config", str(toml), "--out", str(out), *words]) == 0
    shown = capsys.readouterr()
    assert "stage 1 of 3: sft" in shown.err
    assert not (out / "reward_model").exists()
    meta = json.loads((out / "evaluation.json").read_text())["meta"]
    assert (meta["reward"], meta["score_range"]) == ("0.1 polite.py:score", None)
    assert main(["sample", str(out), "the film 3"]) == 0
    assert main(["eval", str(out)]) == 0
    assert main(["frontier", str(out), "--kl-coefs", "--draws", "16"]) == 0
    assert json.loads((out / "frontier.json").read_text())["meta"]["reward"] == "0.1 polite.py:score"
    main(["doctor", str(out)])  # a model as small as this one fails some other checks
    assert "reward: 0.1 polite.py:score: from " in capsys.readouterr().out
    assert (
        main(["run", "--config", str(toml), "--out", str(out), *words, "--resume", "--reward", f"{file}:score=2"]) == 1
    )
    assert "its ppo was trained for the reward '0.1 polite.py:score', not for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1 / 0]", r"ZeroDivisionError: division by zero \(polite.py, line 2\) for the response "),
        ("return ['good'] * len(responses)", "must return one number for each response, not 'good' for the response "),
        ("return [float('nan')] * len(responses)", "returned nan for the response "),
        ("return [1.0]", "returned 1 numbers for 8 responses"),
    ],
)
def test_a_function_is_tried_before_anything_is_trained(tmp_path, tiny_config, file, body, message):
    file.write_text(f"def score(prompts, responses):\n    {body}\n")
    config = dataclasses.replace(tiny_config, reward=(f"{file}:score",))
    with pytest.raises(RewardError, match=f"reward 'polite.py:score': {message}"):
        check(config, tmp_path / "run", stages_for(STAGES, sources_of(None, config.reward)))
    assert not (tmp_path / "run").exists()


def test_the_trial_sees_prompts_and_responses_of_the_data(tmp_path, tiny_config):
    seen = []

    def recorded(prompts, responses):
        seen.extend(zip(prompts, responses, strict=True))
        return range(len(responses))

    run = Run(tmp_path, tiny_config)
    trial = try_reward(run, STAGES, tiny_config.model, recorded)
    assert trial.warnings == ()
    texts = [d.response for d in run.data.train.demonstrations[:8]]
    assert [prompt + response for prompt, response in seen] == texts
    assert all(prompt and response for prompt, response in seen)


def test_a_reward_that_never_differs_or_is_slow_gives_a_warning(tmp_path, tiny_config, file):
    def warnings(body, **settings):
        file.write_text(f"import time\ndef score(prompts, responses):\n    {body}\n    return [3] * len(responses)\n")
        config = dataclasses.replace(tiny_config, reward=(f"{file}:score=0.5", "model"), **settings)
        return try_reward(Run(tmp_path, config), STAGES, config.model).warnings

    (equal,) = warnings("")
    assert equal.startswith("reward 'polite.py:score': gives all of 8 texts of the training data the value 3; ")
    _, slow = warnings("time.sleep(0.2)", reward_timeout=5.0)
    assert "256 responses may take" in slow
    assert "longer than reward_timeout = 5; raise it" in slow


def test_preflight_checks_try_a_reward_before_there_is_a_model(tmp_path, tiny_config, file):
    checks = preflight(Run(tmp_path / "none", dataclasses.replace(tiny_config, reward=(f"{file}:score",))))
    assert checks[0].name == "reward"
    assert checks[0].ok
    assert "reward" not in [check.name for check in preflight(Run(tmp_path / "none", tiny_config))]


def test_the_frontier_and_the_evaluation_measure_every_part(make, file):
    run = make(f"{file}:score=0.1", "model")
    list(steps(run, ("ppo", "evaluation")))
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    for model in ("sft", "policy"):
        parts = evaluation[model]["parts"]
        assert evaluation[model]["score_mean"] == pytest.approx(0.1 * parts["score"] + parts["model"], abs=1e-3)
    list(frontier(run, [], draws=2))
    assert json.loads((run.path / "frontier.json").read_text())["meta"]["reward"] == "0.1 polite.py:score + model"
    page = (run.path / "report.html").read_text()
    assert "Parts of the score" in page
    assert "score (weight 0.1)" in page


def test_a_run_in_python_takes_a_mapping_with_weights(make):
    def short(prompts, responses):
        return [-len(response) for response in responses]

    report = next(ppo(make(), {short: 0.1, "model": 1}))
    assert report.metrics["score"] == pytest.approx(0.1 * report.metrics["score.short"] + report.metrics["score.model"])


def test_settings_of_the_reward_do_not_make_a_run_another(make, file):
    run = make(f"{file}:score")
    slower = dataclasses.replace(run, config=dataclasses.replace(run.config, reward_timeout=7.0))
    assert run.inputs("ppo", sources_of(None, run.config.reward)) == slower.inputs(
        "ppo", sources_of(None, run.config.reward)
    )
    assert build({"reward_timeout": 7}).reward_timeout == 7.0
