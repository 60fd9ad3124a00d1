"""Sweeps: a grid of settings and seeds, stages that are shared, and a winner with its uncertainty."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from plaudit.cli import main
from plaudit.config import build
from plaudit.errors import ConfigError
from plaudit.evaluation import sweep
from plaudit.evaluation.memory import runs_that_fit
from plaudit.evaluation.sweep import Cell, grid, stages_of, summarise
from plaudit.training.run import Run


def test_a_grid_is_every_combination():
    points = grid(["ppo.kl_coef=0.1, 0.2", "ppo.lr=1e-4"])
    assert points == {
        "ppo.kl_coef=0.1,ppo.lr=1e-4": {"ppo.kl_coef": "0.1", "ppo.lr": "1e-4"},
        "ppo.kl_coef=0.2,ppo.lr=1e-4": {"ppo.kl_coef": "0.2", "ppo.lr": "1e-4"},
    }


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([], "a sweep needs a setting to vary"),
        (["ppo.kl_coef"], "write a setting and its values"),
        (["ppo.kl_coef=0.1,,0.2"], "write a setting and its values"),
        (["ppo.kl_coef=0.1,0.1"], "twice"),
        (["ppo.lr=1e-4,0.0001"], "another point under another name"),
        (["ppo.kl_coef=0.1", "ppo.kl_coef=0.2"], "twice"),
        (["seed=1,2"], "use --seeds"),
        (["ppo.kl_coeff=0.1"], r"unknown setting 'ppo.kl_coeff' \(did you mean 'ppo.kl_coef'\?\)"),
        (["ppo.kl_coef=low"], "must be a number"),
    ],
)
def test_a_wrong_grid_is_refused(sets, words):
    with pytest.raises(ConfigError, match=words):
        grid(sets)


def test_the_policy_is_the_one_whose_settings_vary():
    assert stages_of(grid(["dpo.beta=0.1,0.2"])) == ("sft", "reward_model", "dpo", "evaluation")
    assert stages_of(grid(["sft.lr=1e-3,1e-4"])) == ("sft", "reward_model", "ppo", "evaluation")
    with pytest.raises(ConfigError, match="not of ppo and dpo"):
        stages_of(grid(["dpo.beta=0.1", "ppo.lr=1e-4"]))


def finished(folder, scores):
    """A run directory as far as a sweep's summary reads it."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"prompt": f"{len(scores)}", "policy_score": s, "sft_score": 0.0, "policy_judge": float(s > 0.5)})
        for s in scores
    ]
    (folder / "responses.jsonl").write_text("\n".join(lines) + "\n")
    return Run(folder, build())


def compared(monkeypatch, tmp_path, means, seeds=3, stopped=(), diverged=None):
    diverged = diverged or {}
    monkeypatch.setattr(
        sweep, "row_of", lambda run: {"score": 0.0, "kl": 1.0, "diverged": diverged.get(run.path.name, "")}
    )
    cells = []
    for number, (point, mean) in enumerate(means.items()):
        for seed in range(seeds):
            noise = np.random.default_rng(seed).normal(0, 0.2, 100)
            cell = Cell(point, {}, seed)
            values = np.broadcast_to(mean, seeds)[seed] + noise
            cells.append((cell, finished(tmp_path / f"{number}-{seed}", values)))
    return summarise(tmp_path, cells, dict.fromkeys(stopped, "the loss is nan"), "score")


def test_a_clear_winner(monkeypatch, tmp_path):
    found = compared(monkeypatch, tmp_path, {"lr=1": 0.3, "lr=2": 0.5})
    assert (found["best"], found["warning"]) == ("lr=2", "")
    worse = next(point for point in found["points"] if point["point"] == "lr=1")
    assert worse["below_best"]["mean"] == pytest.approx(-0.2)
    assert worse["below_best"]["ci95"] == pytest.approx([-0.2, -0.2], abs=1e-9)  # paired: the noise is the same


def test_a_winner_by_the_luck_of_one_seed_is_named_as_such(monkeypatch, tmp_path):
    found = compared(monkeypatch, tmp_path, {"lr=1": 0.3, "lr=2": (0.9, 0.25, 0.25)})
    assert found["best"] == "lr=2"
    assert found["warning"] == "lr=2 is best, but within noise of lr=1: train more seeds before you choose"


def test_a_point_that_stopped_is_not_the_winner(monkeypatch, tmp_path):
    found = compared(monkeypatch, tmp_path, {"lr=1": 0.3, "lr=2": 0.5}, stopped=["lr=2,seed=1"])
    assert found["best"] == "lr=1"
    assert [row["diverged"] for row in found["runs"]] == [""] * 4 + ["the loss is nan", ""]


def test_a_point_with_a_diverged_run_is_not_the_winner(monkeypatch, tmp_path):
    found = compared(monkeypatch, tmp_path, {"lr=1": 0.3, "lr=2": 0.5}, diverged={"1-0": "KL of 80 nats"})
    assert found["best"] == "lr=1"


def test_points_with_other_prompts_are_not_paired(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "row_of", lambda run: {"kl": 1.0, "diverged": ""})
    cells = [(Cell(f"n={n}", {}, 1), finished(tmp_path / str(n), [0.5] * n)) for n in (10, 20)]
    with pytest.raises(ConfigError, match="different held-out prompts"):
        summarise(tmp_path, cells, {}, "score")


@pytest.mark.parametrize("name", ["sft.lr", "reward_model.epochs", "data.name", "reward"])
def test_points_with_other_scorers_are_compared_by_the_judge(name):
    points = {"a": {name: "1"}, "b": {name: "2"}}
    with pytest.raises(ConfigError, match="compare them with --by judge"):
        sweep.check_comparable(points, "score")
    sweep.check_comparable(points, "judge")
    sweep.check_comparable({"a": {"ppo.lr": 1e-3}}, "score")


def test_another_reward_is_another_policy(tmp_path):
    runs = [Run(tmp_path / name, build({"reward": (f"model={name}",)})) for name in ("1", "2")]
    assert len(sweep.representatives(runs, "ppo")) == 2
    assert len(sweep.representatives(runs, "sft")) == 1


def test_a_single_seed_is_a_warning(monkeypatch, tmp_path):
    assert "one seed only" in compared(monkeypatch, tmp_path, {"lr=1": 0.3, "lr=2": 0.5}, seeds=1)["warning"]


SMALL = {
    "sft.epochs": 1, "sft.lr": 1e-2, "reward_model.epochs": 1, "ppo.iterations": 1, "ppo.batch_size": 8,
    "ppo.minibatch_size": 8, "ppo.max_new_tokens": 8, "evaluation.prompts": 8, "prompt_max": 3,
}  # fmt: skip


def test_the_command_trains_shared_stages_once_and_continues(tmp_path, tiny_model_folder, tiny_data_folder, capsys):
    out = tmp_path / "sweep"
    words = ["sweep", "--out", str(out), "--model", tiny_model_folder, "--data", tiny_data_folder, "--device", "cpu"]
    words += [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--set", "ppo.kl_coef=0.1,0.5", "--seeds", "2", "--processes", "2"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert re.search(r"sft 2 of 2: ppo\.kl_coef=0\.1,seed=\d", printed.err)
    assert "ppo 4 of 4" in printed.err
    cells = [f"ppo.kl_coef={value},seed={seed}" for value in ("0.1", "0.5") for seed in (1, 2)]
    assert {row["point"] for row in json.loads((out / "sweep.json").read_text())["runs"]} == {
        "ppo.kl_coef=0.1",
        "ppo.kl_coef=0.5",
    }
    models = [(out / cell / "sft" / "model.safetensors") for cell in cells]
    assert models[0].samefile(models[2])
    assert not models[0].samefile(models[1])
    assert "against the best" in printed.out

    assert main([*words, "--sft.epochs", "2"]) == 1
    assert "was made with sft.epochs = 1, not 2" in capsys.readouterr().err
    before = {cell: (out / cell / "ppo" / "model.safetensors").stat().st_mtime_ns for cell in cells}
    assert main(words) == 0
    assert "ppo 1 of" not in capsys.readouterr().err
    assert before == {cell: (out / cell / "ppo" / "model.safetensors").stat().st_mtime_ns for cell in cells}


def test_no_more_runs_at_once_than_the_memory_holds(tiny_config, tmp_path, monkeypatch):
    runs = [Run(tmp_path / str(seed), tiny_config) for seed in range(4)]
    for free, fitting in ((None, 4), (0, 1), (2**29, 1), (3 * 2**29, 2), (2**40, 4)):
        monkeypatch.setattr("plaudit.evaluation.memory.memory.free", lambda device, free=free: free)
        assert runs_that_fit(runs, "ppo") == fitting


def test_help_names_the_flags():
    done = subprocess.run(
        [sys.executable, "-m", "plaudit", "sweep", "--help"], capture_output=True, text=True, env=os.environ, check=True
    )
    assert "--set NAME=X,X,..." in done.stdout
