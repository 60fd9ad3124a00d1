import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from plaudit.cli import plan as plans
from plaudit.cli.plan import Plan
from plaudit.cli.plan import plan as plan_of
from plaudit.data.corpus import load
from plaudit.errors import ModelError
from plaudit.models import loading
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.training.run import STAGES

NOWHERE = Path("no such run")


def test_the_plan_counts_parameters_texts_and_operations(tiny_config):
    plan = plan_of(tiny_config, NOWHERE, STAGES)
    model = load_causal_lm(tiny_config.model)
    parameters = sum(p.numel() for p in model.parameters())
    assert plan.parameters == parameters
    assert sum(plan.records.values()) == 400
    assert (plan.device, plan.dtype) == ("cpu", "float32")
    # The embeddings are tied: the head multiplies with them, and looking a token up costs nothing.
    tokenizer = load_tokenizer(tiny_config.model)
    texts = [tokenizer.demonstration(d.prompt, d.response) for d in load(tiny_config.data.name).train.demonstrations]
    tokens = sum(len(prompt) + len(response) for prompt, response in texts)
    assert plan.flops["sft"] == pytest.approx(tokens * 6 * parameters * tiny_config.sft.epochs, rel=0.02)
    assert set(plan.flops) == set(STAGES)


def test_frozen_layers_take_fewer_operations(tiny_config):
    frozen = dataclasses.replace(tiny_config, sft=dataclasses.replace(tiny_config.sft, train_layers=1))
    assert plan_of(frozen, NOWHERE, ("sft",)).flops["sft"] < plan_of(tiny_config, NOWHERE, ("sft",)).flops["sft"]


def test_the_expected_time_is_of_the_stages_asked_for_at_the_measured_speed(monkeypatch):
    monkeypatch.setattr(plans, "_flops_per_second", lambda device, dtype: 2e12)
    plan = Plan(1, {}, "cpu", "float32", {"sft": 60e12, "ppo": 30e12})
    assert plan.seconds(["sft"]) == pytest.approx(60 + 6)
    assert plan.seconds(["sft", "ppo", "another algorithm"]) == pytest.approx(90 + 12)
    assert plan.seconds([]) == 0


def test_measuring_the_speed_leaves_the_threads_as_they_are():
    threads = torch.get_num_threads()
    assert 1e8 < plans._flops_per_second(torch.device("cpu"), torch.float32) < 1e15
    assert torch.get_num_threads() == threads


def test_the_weights_are_not_read(tiny_config, tmp_path, monkeypatch):
    shutil.copytree(tiny_config.model, tmp_path / "model")
    monkeypatch.setattr("safetensors.torch.load_file", lambda *arguments: pytest.fail("weights are read"))
    monkeypatch.setattr(
        loading.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights are read")
    )
    config = dataclasses.replace(tiny_config, model=str(tmp_path / "model"))
    assert plan_of(config, NOWHERE, STAGES).parameters > 0
    (tmp_path / "model" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="cannot be opened as a model"):
        plan_of(config, NOWHERE, STAGES)
