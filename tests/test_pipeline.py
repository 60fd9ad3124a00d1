import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tiny import make_lm

from plaudit.algorithms.actors import Actors
from plaudit.cli import main
from plaudit.models.loading import load_tokenizer, save
from plaudit.pipeline import steps
from plaudit.training.run import STAGES, Run

FIGURES = {"score_mean", "score_ci95", "judge_positive", "kl_mean", "perplexity_ref", "distinct_1", "distinct_2",
           "length_mean", "eos_rate", "duplicate_rate"}  # fmt: skip


def _resumed(path, config, stages=STAGES):
    return steps(config, Run.open(path, config, resume=True, overwrite=False, stages=stages), stages)


def _weights_and_metrics(path):
    names = [f"{s}/{f}" for s in ("sft", "reward_model", "ppo") for f in ("model.safetensors", "metrics.jsonl")]
    files = {
        name: (path / name).read_bytes()
        for name in [
            *names,
            "policy/value_head.safetensors",
            "policy/rollouts.jsonl",
            "doctor.json",
            "samples.jsonl",
            "responses.jsonl",
        ]
    }
    for stage in ("sft", "reward_model", "ppo"):  # the optimizer too
        newest = max((path / stage / "checkpoints").iterdir())
        files[f"{stage}/optimizer"] = (newest / "tensors.safetensors").read_bytes()
    return files


def _without_times(path):
    evaluation = json.loads((path / "evaluation.json").read_text())
    evaluation["meta"].pop("wall_seconds")
    return evaluation


def test_a_run_leaves_what_the_contract_says(finished_run):
    for stage in ("sft", "reward_model", "ppo"):
        for name in ("model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "summary.json"):
            assert (finished_run / stage / name).exists(), (stage, name)
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation.keys() == {"sft", "policy", "meta"}
    assert evaluation["sft"].keys() == evaluation["policy"].keys() == FIGURES
    assert {"prompts", "seed", "wall_seconds", "device", "dtype", "model", "data"} <= evaluation["meta"].keys()
    assert evaluation["sft"]["kl_mean"] == pytest.approx(0, abs=1e-5)
    assert evaluation["policy"]["kl_mean"] > 0
    assert set(evaluation["meta"]["wall_seconds"]) == {"sft", "reward_model", "ppo", "evaluation"}
    samples = [json.loads(line) for line in (finished_run / "samples.jsonl").read_text().splitlines()]
    assert all(s.keys() == {"prompt", "sft", "policy", "sft_score", "policy_score"} for s in samples)
    assert (finished_run / "report.html").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path, finished_run, tiny_config):
    run = Run.open(tmp_path / "again", tiny_config, resume=False, overwrite=False, stages=STAGES)
    list(steps(tiny_config, run))
    assert _without_times(run.path) == _without_times(finished_run)
    assert _weights_and_metrics(run.path) == _weights_and_metrics(finished_run)

    other = dataclasses.replace(tiny_config, seed=2)
    run = Run.open(tmp_path / "other", other, resume=False, overwrite=False, stages=STAGES)
    list(steps(other, run))
    assert (
        _weights_and_metrics(run.path)["policy/model.safetensors"]
        != _weights_and_metrics(finished_run)["policy/model.safetensors"]
    )


@pytest.mark.parametrize(("stage", "after"), [("sft", 7), ("reward_model", 8), ("ppo", 3)])
def test_stopped_and_resumed_equals_uninterrupted_byte_for_byte(tmp_path, finished_run, tiny_config, stage, after):
    """`after` lies past a checkpoint, so that work is lost and done again."""
    run = Run.open(tmp_path / "run", tiny_config, resume=False, overwrite=False, stages=STAGES)
    for report in steps(tiny_config, run):
        if report.stage == stage and report.step == after:
            break  # stopped: the generator is dropped in the middle of the stage
    list(_resumed(run.path, tiny_config))
    assert _weights_and_metrics(run.path) == _weights_and_metrics(finished_run)
    assert _without_times(run.path) == _without_times(finished_run)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stopped_in_every_stage_and_resumed_a_run_on_one_trunk_is_the_same_byte_for_byte(tmp_path, tiny_config, dtype):
    """Two of three blocks learn in the reward model, one elsewhere: what SFT passes on is not its own beginning."""
    save(make_lm(layers=3), load_tokenizer(tiny_config.model), tmp_path / "three")
    learning = {"sft": 1, "reward_model": 2, "ppo": 1}
    parts = {stage: dataclasses.replace(getattr(tiny_config, stage), train_layers=k) for stage, k in learning.items()}
    config = dataclasses.replace(tiny_config, model=str(tmp_path / "three"), dtype=dtype, **parts)
    straight, broken = (
        Run.open(tmp_path / name, config, resume=False, overwrite=False, stages=STAGES) for name in ("a", "b")
    )
    list(steps(config, straight))
    actors = Actors.load(straight, "ppo")
    assert actors.depths == (2, 1)
    reports = steps(config, broken)
    for stage, after in (("sft", 7), ("reward_model", 8), ("ppo", 3)):
        for report in reports:
            if (report.stage, report.step) == (stage, after):
                break
        reports = _resumed(broken.path, config)
    list(reports)
    assert _weights_and_metrics(broken.path) == _weights_and_metrics(straight.path)
    assert _without_times(broken.path) == _without_times(straight.path)


def test_resuming_a_finished_run_does_nothing(tmp_path, finished_run, tiny_config):
    shutil.copytree(finished_run, tmp_path / "run")
    before = _weights_and_metrics(tmp_path / "run")
    assert list(_resumed(tmp_path / "run", tiny_config)) == []
    assert _weights_and_metrics(tmp_path / "run") == before


def test_evaluation_alone_is_done_again_when_asked_for(tmp_path, finished_run, tiny_config):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    stages = {r.stage for r in _resumed(tmp_path / "run", tiny_config, ("evaluation",))}
    assert stages == {"evaluation"}
    assert _without_times(tmp_path / "run") == _without_times(finished_run)


@pytest.mark.parametrize("command", [["run", "--overwrite"], ["run", "--resume"], ["reward-model", "--overwrite"]])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--data", "empty.csv"], "empty.csv: the file is empty"),
        (["--data", "latin1.csv"], "latin1.csv, line 2"),
        (["--data", "columns.csv"], "columns.csv: no columns to learn from"),
        (["--data", "label.csv"], "label.csv, line 3: label '7'"),
    ],
)
def test_bad_data_is_one_line_and_leaves_a_finished_run_untouched(
    tmp_path, monkeypatch, capsys, finished_run, command, flags, says
):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "empty.csv": b"",
        "latin1.csv": b"text,label\ncaf\xe9,1\n",
        "columns.csv": b"foo,label\nx,1\n",
        "label.csv": b"text,label\ngood,1\nbad,7\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    shutil.copytree(finished_run, "run")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert main([*command, "--out", "run", *flags]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "nowhere.csv"], "no such file"),
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--ppo.max-new-tokens", "200"], "do not fit into the model's window of 128 tokens"),
    ],
)
def test_what_cannot_work_leaves_no_directory_behind(tmp_path, monkeypatch, capsys, flags, says):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--out", "run", *flags]) == 1
    assert says in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_stage_without_what_it_builds_on_removes_nothing(tmp_path, capsys, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "reward_model")
    assert main(["ppo", "--out", str(tmp_path / "run"), "--overwrite"]) == 1
    assert "no finished reward model here" in capsys.readouterr().err
    assert (tmp_path / "run" / "ppo" / "model.safetensors").exists()
