"""Algorithms that train one of two layers: only that layer changes, and both engines learn the same."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from plaudit.algorithms.ppo import ppo
from plaudit.algorithms.reward_model import reward_model
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.training.run import STAGES, Run

FROZEN = ("transformer.wte.", "transformer.wpe.", "transformer.h.0.")


def assert_same_metrics(plain, fast):
    assert len(fast) == len(plain) > 3
    for one, other in zip(plain, fast, strict=True):
        assert other.metrics == pytest.approx(one.metrics, rel=1e-3, abs=1e-4), one.step


def assert_only_the_top_layer_changed(folder, start):
    before, after = (load_file(f"{f}/model.safetensors") for f in (start, folder))
    assert all(torch.equal(before[name], p) for name, p in after.items() if name.startswith(FROZEN))
    moved = {name for name, p in after.items() if name in before and not torch.equal(before[name], p)}
    assert any(name.startswith("transformer.h.1.") for name in moved)


@pytest.fixture(params=["labels", "comparisons"])
def settings(request, tmp_path, tiny_config, tiny_model_folder):
    """One epoch in which one of two layers learns."""
    data = tiny_config.data.name
    if request.param == "comparisons":
        rows = [
            {"prompt": f"film {i} is", "chosen": f"a joy number {i % 7}", "rejected": f"a chore of {i % 5} hours or so"}
            for i in range(160)
        ]
        data = str(tmp_path / "pairs.jsonl")
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "model": tiny_model_folder, "data": data, "device": "cpu", "dtype": "float32",
        "sft.epochs": 1, "sft.train_layers": 1, "sft.lr": 1e-2, "sft.batch_size": 16,
        "reward_model.epochs": 1, "reward_model.train_layers": 1, "reward_model.lr": 5e-3,
        "reward_model.batch_size": 16,
    }  # fmt: skip


def test_sft_and_the_reward_model(tmp_path, settings):
    runs = {
        engine: Run.open(
            tmp_path / engine, build(settings, {"engine": engine}), resume=False, overwrite=False, stages=STAGES
        )
        for engine in ("plain", "fast")
    }
    for algorithm in (sft, reward_model):
        assert_same_metrics(*(list(algorithm(run)) for run in runs.values()))
    plain, fast = runs.values()
    assert fast.summary("sft")["perplexity"] == pytest.approx(plain.summary("sft")["perplexity"], rel=1e-3)
    assert fast.summary("reward_model")["accuracy"] == plain.summary("reward_model")["accuracy"]
    for run in runs.values():
        assert_only_the_top_layer_changed(run.folder("sft"), run.config.model)
        assert_only_the_top_layer_changed(run.folder("reward_model"), run.folder("sft"))
    assert not list(fast.path.rglob("*.partial"))


@pytest.mark.parametrize("reward_on_sft", [True, False])
def test_ppo(bare_run, reward_on_sft):
    reports, runs = [], []
    for engine in ("plain", "fast"):
        run = bare_run(engine, reward_on_sft, train_layers=1, iterations=4, lr=1e-3, kl_stop=1e9)
        runs.append(dataclasses.replace(run, config=dataclasses.replace(run.config, engine=engine)))
        reports.append(list(ppo(runs[-1])))
    assert_same_metrics(*reports)
    assert reports[0][-1].metrics["kl"] > 0.01
    assert_only_the_top_layer_changed(runs[1].folder("ppo"), runs[1].folder("sft"))
