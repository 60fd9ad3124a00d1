import dataclasses

import pytest
import torch

from plaudit.config import build
from plaudit.errors import RunError
from plaudit.training import run as module
from plaudit.training.run import STAGES, Run

CONFIG = build({"device": "cpu"})


def _snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _finished(path, stages=("sft", "reward_model", "ppo")):
    run = Run.open(path, CONFIG, resume=False, overwrite=False, stages=STAGES)
    for stage in stages:
        run.folder(stage).mkdir()
        run.finish(stage, {"stage": stage})
    return run


def _open(path, config=CONFIG, stages=STAGES, **flags):
    return Run.open(path, config, **{"resume": False, "overwrite": False} | flags, stages=stages)


def test_a_run_remembers_its_settings(tmp_path):
    _open(tmp_path / "run", build({"seed": 7, "ppo.kl_coef": 0.2, "device": "cpu"}))
    again = Run.existing(tmp_path / "run")
    assert again.config.seed == 7
    assert again.config.ppo.kl_coef == 0.2
    assert "torch = " in (tmp_path / "run" / "config.toml").read_text()


def test_a_full_directory_is_left_untouched_without_resume_or_overwrite(tmp_path):
    _finished(tmp_path / "run")
    before = _snapshot(tmp_path / "run")
    with pytest.raises(RunError, match="--resume to go on, or --overwrite"):
        _open(tmp_path / "run")
    assert _snapshot(tmp_path / "run") == before


def test_overwriting_a_stage_removes_what_was_built_on_it_and_no_more(tmp_path):
    run = _finished(tmp_path / "run")
    (run.path / "evaluation.json").write_text("{}")
    (run.path / "notes.txt").write_text("mine")
    _open(run.path, stages=("reward_model",), overwrite=True)
    assert run.complete("sft")
    assert not run.folder("reward_model").exists()
    assert not run.folder("ppo").exists()
    assert not (run.path / "evaluation.json").exists()
    assert (run.path / "notes.txt").read_text() == "mine"


def test_somebody_elses_folder_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RunError, match=r"thesis\.txt"):
            _open(tmp_path, **flags)
    assert _snapshot(tmp_path).keys() == {(tmp_path / "thesis.txt").relative_to(tmp_path)}


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        _open(tmp_path / "run")


def test_resuming_with_other_settings_names_the_setting(tmp_path):
    _finished(tmp_path / "run")
    with pytest.raises(RunError, match=r"sft was made with sft\.lr = .*, not 0\.5"):
        _open(tmp_path / "run", build({"sft.lr": 0.5, "device": "cpu"}), resume=True)


def test_a_later_stage_may_change_its_own_settings_but_not_an_earlier_ones(tmp_path):
    _finished(tmp_path / "run")
    new = build({"ppo.kl_coef": 0.5, "device": "cpu"})
    assert _open(tmp_path / "run", new, stages=("ppo",), overwrite=True).config.ppo.kl_coef == 0.5
    with pytest.raises(RunError, match=r"reward\.lr"):
        _open(tmp_path / "run", build({"reward_model.lr": 0.5, "device": "cpu"}), stages=("ppo",), overwrite=True)


def test_an_unfinished_stage_is_named_with_the_command_that_finishes_it(tmp_path):
    run = _open(tmp_path / "run", stages=("sft",))
    with pytest.raises(RunError, match="no finished sft model here; run: plaudit sft --out"):
        run.model("sft")


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"config\.toml is missing"):
        Run.existing(tmp_path)


def test_checkpoints_of_a_stage_depend_on_its_own_and_earlier_settings_only(tmp_path):
    def fingerprint(name, **change):
        return _open(tmp_path / name, build({"device": "cpu", **change})).checkpoints("reward_model").fingerprint

    base = fingerprint("a")
    assert fingerprint("b", **{"ppo.lr": 0.5}) == base
    assert fingerprint("c", **{"reward_model.lr": 0.5}) != base
    assert fingerprint("d", **{"sft.lr": 0.5}) != base
    assert fingerprint("e", seed=2) != base


def test_evaluation_made_with_other_settings_is_made_again(tmp_path):
    run = _finished(tmp_path / "run")
    (run.path / "evaluation.json").write_text("{}")
    (run.path / "report.html").write_text("")
    assert _open(run.path, resume=True).complete("evaluation")
    changed = build({"device": "cpu", "evaluation.prompts": 99})
    assert not _open(run.path, changed, resume=True).complete("evaluation")


def test_versions_stay_those_that_made_the_models(tmp_path):
    run = _finished(tmp_path / "run")
    config = (run.path / "config.toml").read_text().replace('revision = "', 'revision = "made-by-')
    (run.path / "config.toml").write_text(config)
    _open(run.path, resume=True)
    assert (run.path / "config.toml").read_text() == config


def test_a_branch_shares_what_ppo_builds_on_and_nothing_else(tmp_path):
    run = _finished(tmp_path / "run")
    (run.folder("sft") / "checkpoints").mkdir()
    other = build({"device": "cpu", "ppo.kl_coef": 0})
    branch = run.branch(tmp_path / "other", other)
    assert sorted(p.name for p in branch.path.iterdir()) == ["config.toml", "reward_model", "sft"]
    assert not (branch.folder("sft") / "checkpoints").exists()
    assert Run.existing(branch.path).config == dataclasses.replace(other, dtype=run.config.dtype)
    assert (branch.folder("sft") / "summary.json").samefile(run.folder("sft") / "summary.json")

    (branch.path / "note.txt").write_text("mine")
    assert run.branch(branch.path, other) == branch
    assert (branch.path / "note.txt").exists()
    run.branch(branch.path, other, overwrite=True)
    assert sorted(p.name for p in branch.path.iterdir()) == ["config.toml", "reward_model", "sft"]
    Run.open(branch.path, other, resume=False, overwrite=True, stages=STAGES)
    assert run.complete("sft")


def test_a_branch_wants_finished_stages_and_a_folder_of_its_own(tmp_path):
    with pytest.raises(RunError, match="no finished reward model here"):
        _finished(tmp_path / "half", ("sft",)).branch(tmp_path / "other", CONFIG)
    assert not (tmp_path / "other").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        _finished(tmp_path / "run").branch(tmp_path / "thesis", CONFIG, overwrite=True)
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


def test_what_auto_came_to_stays_on_whatever_machine_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: True)
    run = _finished(tmp_path / "run", ("sft",))
    assert Run.existing(run.path).config.dtype == "bfloat16"
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: False)
    again = _open(run.path, CONFIG, resume=True)
    assert (again.dtype, again.checkpoints("sft").fingerprint) == (torch.bfloat16, run.checkpoints("sft").fingerprint)
    with pytest.raises(RunError, match="its sft was made with dtype = 'bfloat16', not 'float32'"):
        _open(run.path, build({"device": "cpu", "dtype": "float32"}), resume=True)
    reward = run.folder("reward_model")
    reward.mkdir()
    run.finish("reward_model", {})
    assert run.branch(tmp_path / "branch", CONFIG).dtype == torch.bfloat16
    assert _open(run.path, CONFIG, overwrite=True).dtype == torch.float32  # nothing is kept
