"""Stages that run the frozen blocks once and keep what they leave, against the same stages that keep nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file

from plaudit.algorithms.ppo import ppo
from plaudit.algorithms.reward_model import reward_model
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.models.trunk import freeze_below
from plaudit.training.run import STAGES, Run

BELOW = ("transformer.wte.", "transformer.wpe.", "transformer.h.0.")
STAGE = {"sft": sft, "reward_model": reward_model}


def _keeps_nothing(lm, train_layers, setting=""):
    """The same parameters learn, and a batch begins at its ids."""
    freeze_below(lm, train_layers)
    return 0


def _same_run(ours, plain):
    assert len(ours) == len(plain) > 3
    for a, b in zip(ours, plain, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-3, abs=1e-4), a.step


def _one_block_learned(folder, start):
    """The top block has moved, and no number below it."""
    before, after = (load_file(f"{f}/model.safetensors") for f in (start, folder))
    assert all(torch.equal(before[name], p) for name, p in after.items() if name.startswith(BELOW))
    moved = {name for name, p in after.items() if name in before and not torch.equal(before[name], p)}
    assert any(name.startswith("transformer.h.1.") for name in moved)


@pytest.fixture(params=["labels", "comparisons"])
def config(request, tmp_path, tiny_config, tiny_model_folder):
    """One epoch in which one of two blocks learns."""
    settings = {"sft.epochs": 1, "reward_model.epochs": 1, "sft.train_layers": 1, "reward_model.train_layers": 1, "sft.lr": 1e-2,
                "reward_model.lr": 5e-3, "sft.batch_size": 16, "reward_model.batch_size": 16, "device": "cpu",
                "dtype": "float32", "model": tiny_model_folder, "data": tiny_config.data}  # fmt: skip
    if request.param == "comparisons":
        rows = [
            {"prompt": f"film {i} is", "chosen": f"a joy number {i % 7}", "rejected": f"a chore of {i % 5} hours or so"}
            for i in range(160)
        ]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        settings["data"] = str(tmp_path / "pairs.jsonl")
    return build(settings)


def test_sft_and_the_reward_model_learn_the_same_from_states_that_were_kept(tmp_path, config, monkeypatch):
    kept = Run.open(tmp_path / "kept", config, resume=False, overwrite=False, stages=STAGES)
    plain = Run.open(tmp_path / "plain", config, resume=False, overwrite=False, stages=STAGES)
    ours, passed_on = {}, []
    for name, stage in STAGE.items():
        ours[name] = list(stage(config, kept))
        passed_on += kept.memo.get("states", ())
    reads_the_same = not config.data.endswith("pairs.jsonl")
    assert [kept is not None for kept in passed_on] == [reads_the_same] * 2  # once: the reward model took them away
    for name, stage in STAGE.items():
        monkeypatch.setattr(f"plaudit.algorithms.{name}.freeze_below", _keeps_nothing)
        _same_run(ours[name], list(stage(config, plain)))
    assert kept.summary("sft")["perplexity"] == pytest.approx(plain.summary("sft")["perplexity"], rel=1e-3)
    assert kept.summary("reward_model")["accuracy"] == plain.summary("reward_model")["accuracy"]
    _one_block_learned(kept.folder("sft"), config.model)
    _one_block_learned(kept.folder("reward_model"), kept.folder("sft"))
    assert not list(kept.path.rglob("*.partial"))


@pytest.mark.parametrize("reward_on_sft", [True, False])
def test_ppo_learns_the_same_from_states_that_were_kept(bare_run, monkeypatch, reward_on_sft):
    settings = {"train_layers": 1, "iterations": 4, "lr": 1e-3, "kl_stop": 1e9}
    kept, plain = (bare_run(name, reward_on_sft, **settings) for name in ("kept", "plain"))
    ours = list(ppo(kept.config, kept))
    monkeypatch.setattr("plaudit.algorithms.actors.share_below", lambda owner, other, depth: 0)
    _same_run(ours, list(ppo(plain.config, plain)))
    assert ours[-1].metrics["kl"] > 0.01
    _one_block_learned(kept.folder("ppo"), kept.folder("sft"))
