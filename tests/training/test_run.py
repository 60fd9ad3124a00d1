import dataclasses
import json
import shutil

import pytest
import torch

from plaudit.config import build
from plaudit.errors import ConfigError, RunError
from plaudit.training import run as module
from plaudit.training.run import STAGES, Run, ancestors, needs_of

CONFIG = build({"device": "cpu"})
MADE_FROM = ("sft", "reward_model")  # of ppo


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finish(run, *stages):
    """Leave what these stages leave: their inputs and a summary, without a model."""
    for stage in stages:
        run.checkpoints(stage)
        run.finish(stage, {"stage": stage})


def finished(path, stages=("sft", "reward_model", "ppo"), config=CONFIG):
    run = Run.open(path, config, resume=False, overwrite=False, stages=STAGES)
    finish(run, *stages)
    return run


def open_run(path, config=CONFIG, stages=STAGES, **flags):
    return Run.open(path, config, **{"resume": False, "overwrite": False} | flags, stages=stages)


def test_a_run_remembers_its_settings(tmp_path):
    open_run(tmp_path / "run", build({"seed": 7, "ppo.kl_coef": 0.2, "device": "cpu"}))
    again = Run.existing(tmp_path / "run")
    assert again.config.seed == 7
    assert again.config.ppo.kl_coef == 0.2
    assert "torch = " in (tmp_path / "run" / "config.toml").read_text()


def test_a_full_directory_is_left_untouched_without_resume_or_overwrite(tmp_path):
    finished(tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(RunError, match="use --resume to continue, or --overwrite"):
        open_run(tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_overwriting_a_stage_removes_what_was_made_from_it_and_no_more(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / "evaluation.json").write_text("{}")
    (run.path / "notes.txt").write_text("mine")
    open_run(run.path, stages=("reward_model",), overwrite=True)
    assert run.complete("sft")
    assert not run.folder("reward_model").exists()
    assert not run.folder("ppo").exists()
    assert not (run.path / "evaluation.json").exists()
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RunError, match=r"thesis\.txt"):
            open_run(tmp_path, **flags)
    assert snapshot(tmp_path).keys() == {(tmp_path / "thesis.txt").relative_to(tmp_path)}


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        open_run(tmp_path / "run")


# What a folder was made from: its settings, its inputs and its data. A change of any is refused by name.


@pytest.mark.parametrize(
    ("change", "stages", "message"),
    [
        # A setting of the stage itself.
        ({"sft.lr": 0.5}, STAGES, r"its sft was made with sft\.lr = 0\.001, not 0\.5; keep that value, choose another"),
        ({"ppo.kl_coef": 0.5}, STAGES, r"its ppo was made with ppo\.kl_coef = 0\.15, not 0\.5"),
        # A setting of a folder that the stage is made from, although only the stage itself is asked for.
        ({"sft.lr": 0.5}, ("ppo",), r"its sft was made with sft\.lr"),
        ({"reward_model.lr": 0.5}, ("ppo",), r"its reward_model was made with reward_model\.lr"),
        # A general setting.
        ({"seed": 2}, STAGES, r"its sft was made with seed = 1, not 2"),
        ({"prompt_max": 5}, ("ppo",), r"its sft was made with prompt_max = 8, not 5"),
        ({"dtype": "bfloat16"}, STAGES, r"its sft was made with dtype = 'float32', not 'bfloat16'"),
    ],
)
def test_a_changed_setting_is_refused_by_name(tmp_path, change, stages, message):
    settings = {"device": "cpu", "dtype": "float32"}
    finished(tmp_path / "run", config=build(settings))
    before = snapshot(tmp_path / "run")
    with pytest.raises(RunError, match=message) as error:
        open_run(tmp_path / "run", build(settings | change), resume=True, stages=stages)
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path / "run") == before


def test_the_engine_does_not_say_what_a_folder_is(tmp_path):
    run = finished(tmp_path / "run")
    plain = open_run(run.path, build({"device": "cpu", "engine": "plain"}), resume=True)
    assert (plain.config.engine, plain.complete("ppo")) == ("plain", True)
    assert plain.inputs("ppo") == run.inputs("ppo")


def test_a_folder_with_a_setting_that_is_gone_is_accepted(tmp_path):
    run = finished(tmp_path / "run")
    path = run.folder("sft") / "inputs.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | {"settings": made["settings"] | {"engine": "fast"}}))
    assert open_run(run.path, resume=True).complete("sft")


def test_a_setting_of_a_stage_that_has_not_begun_may_change(tmp_path):
    finished(tmp_path / "run", ("sft", "reward_model"))
    new = build({"device": "cpu", "ppo.kl_coef": 0.5, "reinforce.lr": 0.5, "evaluation.prompts": 99})
    run = open_run(tmp_path / "run", new, resume=True)
    assert run.config == dataclasses.replace(new, dtype=run.config.dtype)
    assert Run.existing(run.path).config == run.config


def test_a_stage_may_be_made_again_with_other_settings_but_not_from_other_inputs(tmp_path):
    finished(tmp_path / "run")
    new = build({"ppo.kl_coef": 0.5, "device": "cpu"})
    assert open_run(tmp_path / "run", new, stages=("ppo",), overwrite=True).config.ppo.kl_coef == 0.5
    with pytest.raises(RunError, match=r"its reward_model was made with reward_model\.lr"):
        open_run(tmp_path / "run", build({"reward_model.lr": 0.5, "device": "cpu"}), stages=("ppo",), overwrite=True)


def test_data_whose_content_has_changed_is_refused_by_name(tmp_path, tiny_config, tiny_data_folder):
    shutil.copytree(tiny_data_folder, tmp_path / "data")
    config = dataclasses.replace(tiny_config, data=str(tmp_path / "data"))
    finished(tmp_path / "run", config=config)
    assert open_run(tmp_path / "run", config, resume=True).complete("ppo")
    rows = (tmp_path / "data" / "train.tsv").read_text().splitlines()
    (tmp_path / "data" / "train.tsv").write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    assert open_run(tmp_path / "run", config, resume=True).complete("ppo")  # the order of the rows has no effect
    (tmp_path / "data" / "train.tsv").write_text("\n".join([*rows, "one film more\t1"]) + "\n")
    with pytest.raises(
        RunError, match=f"its sft was made from other data: {tmp_path}/data has changed; choose another --out"
    ):
        open_run(tmp_path / "run", config, resume=True)


def test_a_folder_made_from_another_input_is_refused_by_name(tmp_path):
    run = finished(tmp_path / "run")
    other = finished(tmp_path / "other", config=build({"device": "cpu", "reward_model.lr": 0.5}))
    shutil.rmtree(run.folder("reward_model"))
    shutil.copytree(other.folder("reward_model"), run.folder("reward_model"))
    with pytest.raises(RunError, match="its ppo was made from another reward_model; choose another --out"):
        run.check_inputs("ppo")


def test_a_policy_trained_for_another_reward_does_not_depend_on_the_reward_model(tmp_path):
    run = finished(tmp_path / "run", ("sft",))
    by_function = run.checkpoints("ppo", reward="length").fingerprint
    assert by_function != run.checkpoints("ppo", reward="other").fingerprint
    run.checkpoints("ppo", reward="length")
    run.finish("ppo", {})
    made = json.loads((run.folder("ppo") / "inputs.json").read_text())
    assert (made["reward"], made["fingerprint"]) == ("length", by_function)
    assert made["inputs"].keys() == {"sft"}
    changed = build({"device": "cpu", "reward_model.lr": 0.5})
    assert open_run(run.path, changed, resume=True).complete("ppo")


def test_an_unfinished_stage_is_named_with_the_command_that_finishes_it(tmp_path):
    run = open_run(tmp_path / "run", stages=("sft",))
    with pytest.raises(RunError, match="no finished sft here; run: plaudit sft --out"):
        run.model("sft")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=r"config\.toml is missing"):
        Run.existing(tmp_path)


def test_a_fingerprint_depends_on_its_own_and_earlier_settings_only(tmp_path):
    def fingerprint(name, **change):
        return open_run(tmp_path / name, build({"device": "cpu", **change})).checkpoints("reward_model").fingerprint

    base = fingerprint("a")
    assert fingerprint("b", **{"ppo.lr": 0.5, "reinforce.lr": 0.5, "evaluation.prompts": 99}) == base
    assert fingerprint("c", **{"reward_model.lr": 0.5}) != base
    assert fingerprint("d", **{"sft.lr": 0.5}) != base
    assert fingerprint("e", seed=2) != base


def test_the_graph_of_folders_follows_what_each_algorithm_declares():
    assert needs_of("sft") == ()
    assert needs_of("ppo") == needs_of("reinforce") == ("sft", "reward_model")
    assert ancestors("ppo") == {"sft", "reward_model"}
    assert ancestors("sft") == set()


def test_a_folder_without_inputs_is_taken_as_it_is(tmp_path):
    """A model that the user has put there."""
    run = open_run(tmp_path / "run")
    run.folder("sft").mkdir()
    run.finish("sft", {})
    assert open_run(run.path, build({"device": "cpu", "sft.lr": 0.5}), resume=True).complete("sft")


def test_an_evaluation_made_with_other_settings_is_removed(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / "evaluation.json").write_text("{}")
    (run.path / "report.html").write_text("")
    assert open_run(run.path, resume=True).complete("evaluation")
    changed = build({"device": "cpu", "evaluation.prompts": 99})
    assert not open_run(run.path, changed, resume=True).complete("evaluation")


def test_versions_stay_those_that_made_the_models(tmp_path):
    run = finished(tmp_path / "run")
    config = (run.path / "config.toml").read_text().replace('revision = "', 'revision = "made-by-')
    (run.path / "config.toml").write_text(config)
    open_run(run.path, resume=True)
    assert (run.path / "config.toml").read_text() == config


def test_a_branch_shares_the_folders_that_it_asks_for_and_nothing_else(tmp_path):
    run = finished(tmp_path / "run")
    (run.folder("sft") / "checkpoints" / "step-00000001").mkdir(parents=True)
    other = build({"device": "cpu", "ppo.kl_coef": 0})
    branch = run.branch(tmp_path / "other", other, MADE_FROM)
    assert sorted(p.name for p in branch.path.iterdir()) == ["config.toml", "reward_model", "sft"]
    assert not (branch.folder("sft") / "checkpoints").exists()
    assert Run.existing(branch.path).config == dataclasses.replace(other, dtype=run.config.dtype)
    assert (branch.folder("sft") / "summary.json").samefile(run.folder("sft") / "summary.json")

    (branch.path / "note.txt").write_text("mine")
    assert run.branch(branch.path, other, MADE_FROM) == branch
    assert (branch.path / "note.txt").exists()
    run.branch(branch.path, other, MADE_FROM, overwrite=True)
    assert sorted(p.name for p in branch.path.iterdir()) == ["config.toml", "reward_model", "sft"]
    Run.open(branch.path, other, resume=False, overwrite=True, stages=STAGES)
    assert run.complete("sft")


def test_a_branch_needs_finished_stages_and_a_folder_of_its_own(tmp_path):
    with pytest.raises(RunError, match="no finished reward_model here; run: plaudit reward-model --out"):
        finished(tmp_path / "half", ("sft",)).branch(tmp_path / "other", CONFIG, MADE_FROM)
    assert not (tmp_path / "other").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        finished(tmp_path / "run").branch(tmp_path / "thesis", CONFIG, MADE_FROM, overwrite=True)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "quick", "found"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_where_it_is_multiplied_in_hardware(cpu_run, monkeypatch, asked, quick, found):
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: quick)
    run = dataclasses.replace(cpu_run, config=dataclasses.replace(cpu_run.config, dtype=asked))
    assert run.dtype == found


def test_auto_is_float32_where_torch_does_not_say_what_the_processor_multiplies(cpu_run, monkeypatch):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    run = dataclasses.replace(cpu_run, config=dataclasses.replace(cpu_run.config, dtype="auto"))
    assert run.dtype == torch.float32


def test_a_device_that_is_missing_is_refused(cpu_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = dataclasses.replace(cpu_run, config=dataclasses.replace(cpu_run.config, device="cuda"))
    with pytest.raises(ConfigError, match="device = 'cuda': this machine has no such device; use cpu or auto"):
        _ = run.device


def test_the_number_format_that_auto_chose_stays_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: True)
    run = finished(tmp_path / "run", ("sft",))
    assert Run.existing(run.path).config.dtype == "bfloat16"
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: False)
    again = open_run(run.path, CONFIG, resume=True)
    assert (again.dtype, again.checkpoints("sft").fingerprint) == (torch.bfloat16, run.checkpoints("sft").fingerprint)
    with pytest.raises(RunError, match="its sft was made with dtype = 'bfloat16', not 'float32'"):
        open_run(run.path, build({"device": "cpu", "dtype": "float32"}), resume=True)
    finish(run, "reward_model")
    assert run.branch(tmp_path / "branch", CONFIG, MADE_FROM).dtype == torch.bfloat16
    assert open_run(run.path, CONFIG, overwrite=True).dtype == torch.float32  # nothing is kept
