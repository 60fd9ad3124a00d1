import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from plaudit.config import build
from plaudit.errors import ConfigError, RunError
from plaudit.models import hub
from plaudit.rewards import Source
from plaudit.training import lock, manifest, versions
from plaudit.training import run as module
from plaudit.training.run import STAGES, Run
from plaudit.training.stages import ancestors, needs_of

CONFIG = build({"device": "cpu"})
MADE_FROM = ("sft", "reward_model")  # of ppo


def snapshot(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in lock.FILES
    }


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


def test_a_removed_directory_may_be_made_again_by_the_same_process(tmp_path):
    open_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    open_run(tmp_path / "run")
    assert (tmp_path / "run" / "config.toml").exists()


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
    run = finished(tmp_path / "run", ("sft",))
    path = run.folder("sft") / "inputs.json"
    made = json.loads(path.read_text())
    made["settings"]["gone"] = 3
    made["fingerprint"] = module._fingerprint({k: v for k, v in made.items() if k not in module._NOT_HASHED})
    path.write_text(json.dumps(made))
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
    config = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, name=str(tmp_path / "data")))
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
    length, other = ((Source(name, 1.0, lambda prompts, responses: []),) for name in ("length", "other"))
    by_function = run.checkpoints("ppo", length).fingerprint
    assert by_function != run.checkpoints("ppo", other).fingerprint
    run.checkpoints("ppo", length)
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
    manifest.write(run.path, [run.path / "evaluation.json"])
    assert open_run(run.path, resume=True).complete("evaluation")
    changed = build({"device": "cpu", "evaluation.prompts": 99})
    assert not open_run(run.path, changed, resume=True).complete("evaluation")


def test_versions_stay_those_that_made_the_models(tmp_path):
    run = finished(tmp_path / "run")
    settings, mark, made_with = (run.path / "config.toml").read_text().partition("[versions]")
    config = settings + mark + made_with.replace('revision = "', 'revision = "made-by-')
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
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: quick)
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
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    run = finished(tmp_path / "run", ("sft",))
    assert Run.existing(run.path).config.dtype == "bfloat16"
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: False)
    again = open_run(run.path, CONFIG, resume=True)
    assert (again.dtype, again.checkpoints("sft").fingerprint) == (torch.bfloat16, run.checkpoints("sft").fingerprint)
    with pytest.raises(RunError, match="its sft was made with dtype = 'bfloat16', not 'float32'"):
        open_run(run.path, build({"device": "cpu", "dtype": "float32"}), resume=True)
    finish(run, "reward_model")
    assert run.branch(tmp_path / "branch", CONFIG, MADE_FROM).dtype == torch.bfloat16
    assert open_run(run.path, CONFIG, overwrite=True).dtype == torch.float32  # nothing is kept


DAMAGES = {
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "inputs.json", "manifest.json", "adapter/config.json"])
def test_a_damaged_file_of_a_finished_stage_is_refused_by_name(tmp_path, damage, name):
    run = open_run(tmp_path / "run")
    run.checkpoints("sft")
    for file in ("model.safetensors", "adapter/config.json"):
        (run.folder("sft") / file).parent.mkdir(exist_ok=True)
        (run.folder("sft") / file).write_text(f"content of {file}")
    run.finish("sft", {"figure": 1})
    assert run.model("sft") == str(run.folder("sft"))
    manifest._whole.clear()  # as in another process
    DAMAGES[damage](run.folder("sft") / name)
    with pytest.raises(RunError, match=rf"sft/{name}: missing or changed .* or run: plaudit sft --out .* --overwrite"):
        run.model("sft")


def test_a_changed_summary_is_damage_and_a_missing_one_an_unfinished_stage(tmp_path):
    run = finished(tmp_path / "run", ("sft",))
    path = run.folder("sft") / "summary.json"
    path.write_text(path.read_text().replace("sft", "SFT"))
    with pytest.raises(RunError, match=r"summary\.json: missing or changed"):
        run.summary("sft")
    path.unlink()
    with pytest.raises(RunError, match="no finished sft here"):
        run.summary("sft")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_evaluation_is_made_again(tmp_path, damage):
    run = open_run(tmp_path / "run")
    for name in ("evaluation.json", "report.html"):
        (run.path / name).write_text("{}")
    manifest.write(run.path, [run.path / "evaluation.json"])
    assert run.complete("evaluation")
    manifest._whole.clear()
    DAMAGES[damage](run.path / "evaluation.json")
    assert not run.complete("evaluation")


@pytest.mark.parametrize("content", ["", "[sft]\n", 'model = "movie-gpt2"\n'])
def test_settings_that_are_not_whole_are_never_completed_with_defaults(tmp_path, content):
    run = finished(tmp_path / "run", ("sft",))
    (run.path / "config.toml").write_text(content)
    for attempt in (lambda: Run.existing(run.path), lambda: open_run(run.path, resume=True)):
        with pytest.raises(RunError, match=r"config\.toml: damaged, or changed by hand"):
            attempt()


def test_a_changed_setting_in_the_file_is_refused(tmp_path):
    run = finished(tmp_path / "run", ("sft",))
    path = run.path / "config.toml"
    path.write_text(path.read_text().replace("lr = 0.001", "lr = 0.002", 1))
    with pytest.raises(RunError, match=r"config\.toml: damaged, or changed by hand; give new settings as flags"):
        Run.existing(run.path)


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(RunError, match="nothing to resume here"):
        open_run(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_commands_that_do_not_train_refuse_several_processes(finished_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="does not run in several processes"):
        Run.existing(finished_run)


def test_what_a_crash_left_half_written_is_swept(tmp_path):
    run = finished(tmp_path / "run", ("sft",))
    (run.path / ".config.toml.partial").write_text("")
    (run.folder("sft") / "checkpoints" / ".step-00000002.partial").mkdir(parents=True)
    (run.folder("sft") / "checkpoints" / "step-00000001").mkdir()  # left by a crash at the end of the stage
    open_run(run.path, resume=True)
    left = {p.name for p in run.path.rglob("*") if p.name not in lock.FILES}
    assert left == {"config.toml", "sft", "inputs.json", "manifest.json", "summary.json"}


def test_checkpoints_of_finished_stages_stay_where_it_is_asked_for(tmp_path):
    run = open_run(tmp_path / "run", build({"device": "cpu", "keep_checkpoints": 1}))
    (run.folder("sft") / "checkpoints" / "step-00000001").mkdir(parents=True)
    run.finish("sft", {})
    assert (run.folder("sft") / "checkpoints" / "step-00000001").exists()


def test_settings_that_change_no_figure_may_differ(tmp_path):
    run = finished(tmp_path / "run", ("sft",))
    other = build({"device": "cpu", "sft.save_every": 3, "sft.microbatch_size": 2, "keep_checkpoints": 1})
    assert open_run(run.path, other, resume=True).complete("sft")


def test_a_model_whose_content_has_changed_is_refused_by_name(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(hub.BUILT_IN["movie-gpt2"](), folder)
    config = build({"device": "cpu", "model": str(folder)})
    run = finished(tmp_path / "run", ("sft", "reward_model"), config)
    open_run(run.path, config, resume=True)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match=f"its sft was made from other weights: {folder} has changed"):
        open_run(run.path, config, resume=True)


def test_other_versions_and_threads_are_noted_while_a_stage_is_unfinished(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run")
    run.checkpoints("sft")
    assert run.differences(STAGES) == []
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(versions, "version", lambda name: "9.9" if name == "torch" else "1")
    notes = run.differences(STAGES)
    assert any(note.startswith("sft was begun with torch ") and "now 9.9" in note for note in notes)
    assert any("threads" in note and "now 7" in note for note in notes)
    run.finish("sft", {})
    assert run.differences(STAGES) == []


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; from plaudit.training.lock import acquire; acquire(Path(sys.argv[1])); "
        "print('held', flush=True); sys.stdin.read()"
    )
    run = finished(tmp_path / "run", ("sft",))
    lock.release(run.path)
    before = snapshot(run.path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {other.pid}"):
            open_run(run.path, resume=True)
        with pytest.raises(RunError, match="in use by"):
            open_run(run.path, overwrite=True)
        other.communicate("")
    assert snapshot(run.path) == before
    open_run(run.path, resume=True)


@pytest.mark.parametrize("here", ["installed", "other repository"])
def test_the_revision_is_never_that_of_another_repository(tmp_path, monkeypatch, here):
    root = tmp_path / "site"
    (root / "lib" / "plaudit" / "training").mkdir(parents=True)
    if here == "other repository":
        (root / ".git").mkdir()
    monkeypatch.setattr(versions, "__file__", str(root / "lib" / "plaudit" / "training" / "versions.py"))
    monkeypatch.setattr(versions.subprocess, "run", lambda *a, **k: pytest.fail("git was asked"))
    assert versions._revision.__wrapped__() == "unknown"


def test_the_revision_says_that_files_were_changed(tmp_path, monkeypatch):
    file = tmp_path / "src" / "plaudit" / "training" / "run.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=b commit -qm first", "tag v1"):
        subprocess.run(["git", "-C", tmp_path, *words.split()], check=True)
    monkeypatch.setattr(versions, "__file__", str(file))
    revision = versions._revision.__wrapped__()
    assert re.fullmatch("[0-9a-f]{12}", revision)
    file.write_text("changed")
    assert versions._revision.__wrapped__() == f"{revision}-dirty"


def test_git_may_be_missing(monkeypatch):
    def missing(*arguments, **keywords):
        raise FileNotFoundError("git")

    monkeypatch.setattr(versions.subprocess, "run", missing)
    assert versions._revision.__wrapped__() == "unknown"
