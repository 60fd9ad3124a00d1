import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_lm

from plaudit import pipeline, rng
from plaudit.cli import main
from plaudit.errors import RunError
from plaudit.models.loading import load_tokenizer, model_without_weights, save
from plaudit.pipeline import steps
from plaudit.training import dist
from plaudit.training.run import STAGES, Run

TRAINED = ("sft", "reward_model", "ppo")
FIGURES = {"score_mean", "score_ci95", "judge_positive", "kl_mean", "kl_ci95", "perplexity_ref", "distinct_1",
           "distinct_2", "length_mean", "eos_rate", "duplicate_rate", "parts"}  # fmt: skip


def opened(path, config, **options):
    return Run.open(path, config, **{"resume": False, "overwrite": False, "stages": STAGES} | options)


def resumed(path, config, stages=STAGES):
    return steps(opened(path, config, resume=True, stages=stages), stages)


def stopped_and_resumed(path, config, *stops):
    """Run the pipeline, leaving it after each of these (stage, step) and resuming it."""
    reports = steps(opened(path, config))
    for stop in stops:
        for report in reports:
            if (report.stage, report.step) == stop:
                break  # the generator is dropped in the middle of the stage
        reports = resumed(path, config)
    list(reports)


def results(path):
    """Bytes of all that a run computes: weights, optimizer state, metrics, responses; evaluation without times."""
    names = [f"{stage}/{name}" for stage in TRAINED for name in ("model.safetensors", "metrics.jsonl", "inputs.json")]
    more = ["ppo/value_head.safetensors", "ppo/rollouts.jsonl", "doctor.json", "samples.jsonl", "responses.jsonl"]
    files = {name: (path / name).read_bytes() for name in [*names, *more]}
    for stage in TRAINED:
        newest = max((path / stage / "checkpoints").iterdir())
        files[f"{stage}/checkpoint"] = (newest / "tensors.safetensors").read_bytes()
    evaluation = json.loads((path / "evaluation.json").read_text())
    evaluation["meta"].pop("wall_seconds")
    return files | {"evaluation": evaluation}


def assert_same_results(one, other):
    one, other = results(one), results(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def short(config, **settings):
    """The settings with one epoch for SFT and the reward model, checkpoints every five steps, and `train_layers`."""
    parts = {stage: {"train_layers": settings.pop(stage, 0)} for stage in TRAINED}
    for stage in ("sft", "reward_model"):
        parts[stage] |= {"epochs": 1, "save_every": 5}
    replaced = {stage: dataclasses.replace(getattr(config, stage), **part) for stage, part in parts.items()}
    return dataclasses.replace(config, **replaced, **settings)


def test_a_run_leaves_the_files_of_its_contract(finished_run):
    for stage in TRAINED:
        names = ("model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "summary.json", "inputs.json")
        for name in names:
            assert (finished_run / stage / name).exists(), (stage, name)
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation.keys() == {"sft", "ppo", "policy", "meta"}
    assert evaluation["policy"] == evaluation["ppo"]
    assert evaluation["sft"].keys() == evaluation["policy"].keys() == FIGURES
    assert {"prompts", "seed", "wall_seconds", "device", "dtype", "model", "data"} <= evaluation["meta"].keys()
    assert evaluation["sft"]["kl_mean"] == pytest.approx(0, abs=1e-5)
    assert evaluation["policy"]["kl_mean"] > 0
    assert set(evaluation["meta"]["wall_seconds"]) == {*TRAINED, "evaluation"}
    samples = lines(finished_run / "samples.jsonl")
    assert all(s.keys() == {"prompt", "sft", "policy", "sft_score", "policy_score"} for s in samples)
    assert (finished_run / "report.html").stat().st_size > 10_000


def test_every_file_of_a_run_can_be_read_by_those_whom_the_umask_lets(finished_run):
    modes = {path.stat().st_mode & 0o777 for path in finished_run.rglob("*") if path.is_file()}
    assert len(modes) == 1
    assert list(finished_run.rglob("checkpoints/*/tensors.safetensors"))
    assert list(finished_run.rglob("value_head.safetensors"))


def test_another_seed_gives_another_run(tmp_path, finished_run, tiny_config):
    list(steps(opened(tmp_path / "other", dataclasses.replace(tiny_config, seed=2)), ("sft",)))
    model = "sft/model.safetensors"
    assert (tmp_path / "other" / model).read_bytes() != (finished_run / model).read_bytes()


def test_stopped_in_every_stage_and_resumed_equals_uninterrupted_byte_for_byte(tmp_path, finished_run, tiny_config):
    """Each stop comes a few steps after a checkpoint, so that work is lost and done again."""
    stopped_and_resumed(tmp_path / "run", tiny_config, ("sft", 17), ("reward_model", 8), ("ppo", 3))
    assert_same_results(tmp_path / "run", finished_run)


@pytest.mark.parametrize(("engine", "dtype"), [("fast", "float32"), ("fast", "bfloat16"), ("plain", "float32")])
def test_this_holds_with_frozen_layers_under_both_engines(tmp_path, tiny_config, engine, dtype):
    """Two of three layers learn in the reward model, one in SFT and in PPO."""
    save(make_lm(layers=3), load_tokenizer(tiny_config.model), tmp_path / "three")
    model = str(tmp_path / "three")
    config = short(tiny_config, sft=1, reward_model=2, ppo=1, model=model, engine=engine, dtype=dtype)
    list(steps(opened(tmp_path / "straight", config)))
    stopped_and_resumed(tmp_path / "stopped", config, ("sft", 7), ("reward_model", 8), ("ppo", 3))
    assert_same_results(tmp_path / "stopped", tmp_path / "straight")


def test_prompts_in_tokens_and_drawn_limits_hold_in_training_evaluation_and_after_a_stop(tmp_path, tiny_config):
    ppo = dataclasses.replace(tiny_config.ppo, min_new_tokens=2, max_new_tokens=6, missing_eos_penalty=0.0)
    prompts = {"prompt_unit": "tokens", "prompt_from_words": 7, "prompt_min": 4, "prompt_max": 5}
    config = short(dataclasses.replace(tiny_config, ppo=ppo), ppo=1, **prompts)
    list(steps(opened(tmp_path / "straight", config)))
    stopped_and_resumed(tmp_path / "stopped", config, ("sft", 7), ("reward_model", 8), ("ppo", 3))
    assert_same_results(tmp_path / "stopped", tmp_path / "straight")
    run = Run.existing(tmp_path / "straight")
    tokenizer = load_tokenizer(run.model("sft"))
    logged = lines(run.folder("ppo") / "rollouts.jsonl")
    assert {len(tokenizer.prompt(line["prompt"])) for line in logged} == {5, 6}  # with bos
    for iteration in range(1, 5):
        noise = rng.uniforms(range(16), 6, config.seed, "ppo", iteration - 1, "responses", 2)
        rows = [line for line in logged if line["iteration"] == iteration]
        for line, limit in zip(rows, (~noise.isnan()).sum(1).tolist(), strict=True):
            assert line["length"] == limit if not line["ended"] else line["length"] <= limit
    assert len({line["length"] for line in logged if not line["ended"]}) > 2
    noise = rng.uniforms(range(16), 6, config.seed, "evaluation", 0, "responses", 2)
    limits = (~noise.isnan()).sum(1).tolist()
    evaluation = json.loads((tmp_path / "straight" / "evaluation.json").read_text())
    assert evaluation["meta"]["prompts"] <= 16
    for model in ("sft", "policy"):
        most = sum(limits[: evaluation["meta"]["prompts"]]) / evaluation["meta"]["prompts"]
        assert 2 <= evaluation[model]["length_mean"] <= most
    checks = json.loads((tmp_path / "straight" / "doctor.json").read_text())["ppo"]
    assert [check["name"] for check in checks if check["stops"] and not check["ok"]] == []
    assert "responses that end" not in [check["name"] for check in checks]  # their limits are drawn


@pytest.mark.parametrize("train_layers", [0, 1])
def test_the_plain_engine_gives_the_run_that_the_fast_one_gives(tmp_path, tiny_config, train_layers):
    plain, fast = (tmp_path / engine for engine in ("plain", "fast"))
    for path in (plain, fast):
        config = short(tiny_config, engine=path.name, **dict.fromkeys(TRAINED, train_layers))
        list(steps(opened(path, config)))
    for stage in ("sft", "reward_model"):
        steps_of = [lines(path / stage / "metrics.jsonl") for path in (plain, fast)]
        assert len(steps_of[0]) == len(steps_of[1]) > 10
        for one, other in zip(*steps_of, strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-4), (stage, one["step"])
    logs = (lines(path / "ppo" / "rollouts.jsonl") for path in (plain, fast))
    first, of_fast = ([line["response"] for line in log if line["iteration"] == 1] for log in logs)
    assert first == of_fast
    first, of_fast = (lines(path / "ppo" / "metrics.jsonl")[0] for path in (plain, fast))
    assert of_fast == pytest.approx(first, rel=1e-3, abs=1e-4)
    for stage in TRAINED:
        weights = [load_file(path / stage / "model.safetensors") for path in (plain, fast)]
        assert weights[0].keys() == weights[1].keys()
        assert all(w.dtype == torch.float32 for some in weights for w in some.values())


def test_resuming_a_finished_run_does_nothing(tmp_path, finished_run, tiny_config):
    shutil.copytree(finished_run, tmp_path / "run")
    assert list(resumed(tmp_path / "run", tiny_config)) == []
    assert_same_results(tmp_path / "run", finished_run)


def test_evaluation_alone_is_repeated_when_asked_for(tmp_path, finished_run, tiny_config):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    stages = {report.stage for report in resumed(tmp_path / "run", tiny_config, ("evaluation",))}
    assert stages == {"evaluation"}
    assert_same_results(tmp_path / "run", finished_run)


@pytest.mark.parametrize("command", [["run", "--overwrite"], ["run", "--resume"], ["reward-model", "--overwrite"]])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--data", "empty.csv"], "empty.csv: the file is empty"),
        (["--data", "columns.csv"], "columns.csv: no columns to learn from"),
        (["--data", "label.csv"], "label.csv, line 3: label '7'"),
    ],
)
def test_bad_data_is_one_line_and_leaves_a_finished_run_untouched(
    tmp_path, monkeypatch, capsys, finished_run, command, flags, message
):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "empty.csv": b"",
        "columns.csv": b"foo,label\nx,1\n",
        "label.csv": b"text,label\ngood,1\nbad,7\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    shutil.copytree(finished_run, "run")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert main([*command, "--out", "run", *flags]) == 1
    error = capsys.readouterr().err
    settings, *rest = error.splitlines()  # the settings, and the error in one line
    assert settings.startswith("plaudit: ")
    assert len(rest) == 1
    assert message in rest[0]
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere.csv"], "no such file"),
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--ppo.max-new-tokens", "200"], "do not fit into the model's window of 128 tokens"),
    ],
)
def test_a_run_that_cannot_work_leaves_no_directory(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--out", "run", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_stage_without_its_inputs_removes_nothing(tmp_path, capsys, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "reward_model")
    assert main(["ppo", "--out", str(tmp_path / "run"), "--overwrite"]) == 1
    assert "no finished reward_model here" in capsys.readouterr().err
    assert (tmp_path / "run" / "ppo" / "model.safetensors").exists()


def test_a_policy_may_be_trained_by_another_engine_than_its_sft_model(tmp_path, finished_run, tiny_config):
    for name in ("sft", "reward_model"):
        shutil.copytree(finished_run / name, tmp_path / "run" / name)
    shutil.copy(finished_run / "config.toml", tmp_path / "run")
    assert tiny_config.engine == "auto"
    run = opened(tmp_path / "run", dataclasses.replace(tiny_config, engine="plain"), stages=("ppo",))
    list(steps(run, ("ppo",)))
    for ours, theirs in zip(
        lines(run.path / "ppo/metrics.jsonl"), lines(finished_run / "ppo/metrics.jsonl"), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(("change", "copies"), [({}, 11), ({"train_layers": 1}, 2), ({"lora_rank": 2}, 2)])
def test_a_disk_that_is_too_small_is_refused_before_training(tmp_path, tiny_config, monkeypatch, change, copies):
    """Of each model a copy; of all that learns weights and two moments, in two checkpoints and one that is written."""
    stages = ["sft", "ppo"]
    parts = {stage: dataclasses.replace(getattr(tiny_config, stage), **change) for stage in stages}
    run = Run(tmp_path / "new" / "run", dataclasses.replace(tiny_config, **parts))
    model = model_without_weights(tiny_config.model)
    needed = copies * 4 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    pipeline.check_disk_space(run, stages, model)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(RunError, match=r"sft, ppo need about 0\.0 GB of disk space, and 0\.0 GB are free there"):
        pipeline.check_disk_space(run, stages, model)


def test_all_ranks_run_the_stages_that_rank_0_finds_unfinished(tmp_path, tiny_config, monkeypatch):
    """This one does not see what SFT and reward model have left."""
    monkeypatch.setattr(dist, "on_main", lambda call: ["ppo"])
    assert pipeline.due(Run(tmp_path, tiny_config), STAGES) == ("ppo", "evaluation")
