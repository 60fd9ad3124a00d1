"""The algorithms with LoRA: adapters learn, the models share one set of base weights, plain folders come out."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit.algorithms.ppo import ppo
from plaudit.config import build, default_settings
from plaudit.errors import ModelError, RunError
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.memory import memory_needed
from plaudit.models.loading import load_causal_lm, load_reward_model
from plaudit.models.lora import FOLDER
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.pipeline import check, steps
from plaudit.training.checkpoint import load_weights, saved_weights
from plaudit.training.models import Models
from plaudit.training.run import STAGES, Run

IDS = torch.tensor([[0, 5, 6, 7, 11], [0, 9, 13, 14, 15]])
MASK = torch.ones_like(IDS, dtype=torch.bool)
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def with_lora(config, **train_layers):
    """The settings with adapters in every stage, in the given number of top layers."""
    parts = {}
    for stage, lr in (("sft", 2e-2), ("reward_model", 2e-2), ("ppo", 1e-2)):
        chosen = {"lora_rank": 4, "lr": lr, "train_layers": train_layers.get(stage, 0)}
        parts[stage] = dataclasses.replace(getattr(config, stage), **chosen)
    parts["reward_model"] = dataclasses.replace(parts["reward_model"], epochs=6)  # a few adapters learn slowly
    return dataclasses.replace(config, **parts)


@pytest.fixture(scope="module")
def adapted_run(tmp_path_factory, tiny_config):
    """The whole pipeline with LoRA: SFT in both layers, reward model and policy in the upper one."""
    config = with_lora(tiny_config, reward_model=1, ppo=1)
    run = Run.open(tmp_path_factory.mktemp("lora") / "run", config, resume=False, overwrite=False, stages=STAGES)
    for _ in steps(run):
        pass
    return run


def changed(before, after):
    """Names of the weights that differ between two model files."""
    before, after = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_every_stage_leaves_a_plain_model_that_differs_in_the_adapted_matrices_only(adapted_run, tiny_model_folder):
    folders = [adapted_run.folder(stage) for stage in ("sft", "reward_model", "ppo")]
    sft, reward_model, policy = folders
    from_base = changed(type(sft)(tiny_model_folder), sft)
    assert from_base == {f"transformer.h.{k}.{part}.weight" for k in (0, 1) for part in MATRICES}
    for folder in (reward_model, policy):
        assert changed(sft, folder) == {f"transformer.h.1.{part}.weight" for part in MATRICES}
    for folder in folders:
        assert (folder / FOLDER / "adapter_model.safetensors").exists()
        assert not [name for name in load_file(folder / "model.safetensors") if "lora" in name or "base_layer" in name]
    assert AutoModelForCausalLM.from_pretrained(policy).config.model_type == "gpt2"


def test_sft_and_the_reward_model_learn(adapted_run):
    sft = adapted_run.summary("sft")
    assert sft["perplexity"] < 0.9 * sft["perplexity_before"]  # no more with the frozen embeddings of a random model
    assert adapted_run.summary("reward_model")["accuracy_ci95"][0] > 0.5  # better than chance, through one layer of two


def test_kl_starts_at_zero_and_the_policy_moves(adapted_run):
    lines = [json.loads(line) for line in (adapted_run.folder("ppo") / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] == 0  # exactly
    assert lines[-1]["kl"] > 1e-3
    assert lines[0]["score"] != lines[-1]["score"]
    evaluation = json.loads((adapted_run.path / "evaluation.json").read_text())
    assert evaluation["policy"]["kl_mean"] > 1e-3


def places(model):
    return {name: p.data_ptr() for name, p in model.named_parameters()}


def assert_scores_are_those_of_the_folder(models, run):
    plain = AutoModelForSequenceClassification.from_pretrained(run.folder("reward_model")).eval()
    with torch.no_grad():
        expected = torch.stack([plain(ids[None]).logits[0, 0] for ids in IDS])
        torch.testing.assert_close(models.reward_model(IDS, MASK), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_policy_reference_and_reward_model_have_one_set_of_base_weights(adapted_run, engine):
    run = dataclasses.replace(adapted_run, config=dataclasses.replace(adapted_run.config, engine=engine))
    models = Models.load(run, "ppo", value_head=True)
    base = set(places(models.policy.lm).values())
    assert set(places(models.reference).values()) <= base
    own = {name for name, place in places(models.reward_model.classifier).items() if place not in base}
    sides = [f"transformer.h.1.{part}.lora_{side}.default.weight" for part in MATRICES for side in "AB"]
    assert own == {"score.weight", *sides}
    learning = {name for name, p in models.policy.named_parameters() if p.requires_grad}
    assert learning == {"value_head.weight", "value_head.bias", *(f"lm.{name}" for name in sides)}
    assert not any(p.requires_grad for model in (models.reference, models.reward_model) for p in model.parameters())
    assert_scores_are_those_of_the_folder(models, run)


@pytest.mark.parametrize("layers", [0, 1])
def test_a_reward_model_with_adapters_in_every_layer_shares_its_base_weights(
    adapted_run, tmp_path, tiny_config, layers
):
    run = Run(tmp_path / "run", with_lora(tiny_config, ppo=layers))
    run.path.mkdir()
    (run.path / "sft").symlink_to(adapted_run.folder("sft"))
    for _ in steps(run, ("reward_model",)):
        pass
    models = Models.load(run, "ppo", value_head=True)
    base = set(places(models.policy.lm).values())
    own = [name for name, place in places(models.reward_model.classifier).items() if place not in base]
    assert all("lora_" in name or name == "score.weight" for name in own)
    assert_scores_are_those_of_the_folder(models, run)


def test_a_reward_model_without_adapters_goes_with_a_policy_that_has_them(bare_run):
    run = bare_run(lora_rank=2)
    models = Models.load(run, "ppo", value_head=True)
    assert set(places(models.reference).values()) <= set(places(models.policy.lm).values())
    assert_scores_are_those_of_the_folder(models, run)
    for _ in ppo(run):
        pass


def test_training_does_not_change_a_bit_of_the_base_weights(bare_run):
    run = bare_run(lora_rank=2, train_layers=0, iterations=2, lr=1e-2)
    models = Models.load(run, "ppo", value_head=True)
    for _ in ppo(run, models=models):
        pass
    sft = load_causal_lm(run.model("sft")).state_dict()
    now = {name.replace(".base_layer.", "."): p for name, p in models.policy.lm.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in sft.items())
    assert all(torch.equal(value, sft[name]) for name, value in models.reference.state_dict().items())
    adapters = {name: p for name, p in models.policy.named_parameters() if "lora_B" in name}
    assert len(adapters) == 8
    assert all(p.any() for p in adapters.values())
    assert models.policy.value_head.weight.any()


def test_a_resumed_run_is_the_same_byte_for_byte_and_its_checkpoints_have_only_what_learns(bare_run):
    settings = {"lora_rank": 2, "train_layers": 1, "iterations": 4, "save_every": 1}
    whole, half = bare_run("whole", **settings), bare_run("half", **settings)
    for _ in ppo(whole):
        pass
    reports = ppo(half)
    next(reports)
    next(reports)
    reports.close()
    ((_, saved),) = sorted(saved_weights(half.folder("ppo") / "checkpoints").items())[-1:]
    tensors = load_file(saved / "tensors.safetensors")
    names = {name.removeprefix("model/lm.") for name in tensors if name.startswith("model/")}
    assert all("lora_" in name or "value_head" in name for name in names)
    assert not [name for name in tensors if "base_layer" in name]
    torch.manual_seed(99)  # nothing depends on it
    for _ in ppo(half):
        pass
    for name in ("model.safetensors", "value_head.safetensors", "metrics.jsonl", f"{FOLDER}/adapter_model.safetensors"):
        assert (half.folder("ppo") / name).read_bytes() == (whole.folder("ppo") / name).read_bytes(), name


def test_evaluation_opens_the_plain_folders_without_peft(adapted_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    models = Measurement(adapted_run, "ppo").models
    assert not any("lora_" in name for lm in (models.policy.lm, models.reward_model.classifier) for name in places(lm))
    assert_scores_are_those_of_the_folder(models, adapted_run)


def test_the_frontier_measures_checkpoints_with_their_adapters(adapted_run):
    kl_coef = adapted_run.config.ppo.kl_coef
    for _ in frontier(adapted_run, [kl_coef], draws=16):
        pass
    sub = adapted_run.path / "frontier" / f"kl_coef-{kl_coef:g}"
    again = sub / "ppo" / "model.safetensors"
    assert again.read_bytes() == (adapted_run.folder("ppo") / "model.safetensors").read_bytes()
    *path, own = json.loads((adapted_run.path / "frontier.json").read_text())["ppo"]
    assert [point["iteration"] for point in path] == [1, 2, 3, 4]
    assert path[-1] == own  # a checkpoint merged into the SFT model is the saved policy
    assert path[0]["kl_mean"] < own["kl_mean"]


def test_a_checkpoint_with_adapters_is_refused_by_a_model_without(bare_run):
    run = bare_run(lora_rank=2, iterations=1)
    for _ in ppo(run):
        pass
    (weights,) = saved_weights(run.folder("ppo") / "checkpoints").values()
    with pytest.raises(RunError, match="lora_A"):
        load_weights(weights, Policy(load_causal_lm(run.model("sft")), PlainEngine()))


@pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo"])
def test_a_run_that_needs_peft_is_refused_before_anything_is_written(tmp_path, tiny_config, monkeypatch, stage):
    section = dataclasses.replace(getattr(tiny_config, stage), lora_rank=4)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'plaudit\[lora\]'"):
        check(dataclasses.replace(tiny_config, **{stage: section}), tmp_path / "run", STAGES)
    assert not (tmp_path / "run").exists()


def test_the_memory_check_knows_that_adapters_need_less(tmp_path, tiny_config):
    lm = make_lm(width=128)
    needed, adapted = (memory_needed(Run(tmp_path, c), lm, 8) for c in (tiny_config, with_lora(tiny_config)))
    layers = 4 * sum(p.numel() for p in lm.transformer.h.parameters())
    assert needed - adapted >= 3 * layers  # gradients and two moments


def test_lora_is_off_by_default():
    assert {value for name, value in default_settings().items() if name.endswith("lora_rank")} == {0}
    assert build({"ppo.lora_rank": 8}).ppo.lora_alpha == 16


def test_in_bfloat16_the_layers_stay_in_float32_because_adapters_are_added_to_them(adapted_run):
    run = dataclasses.replace(adapted_run, config=dataclasses.replace(adapted_run.config, dtype="bfloat16"))
    models = Models.load(run, "ppo", value_head=True)
    every = (models.policy.lm, models.reference, models.reward_model.classifier)
    assert all(p.dtype == torch.float32 for model in every for p in model.base_model.h.parameters())
    with torch.no_grad():
        plain = AutoModelForSequenceClassification.from_pretrained(run.folder("reward_model")).eval()
        exact = torch.stack([plain(ids[None]).logits[0, 0] for ids in IDS])
        torch.testing.assert_close(models.reward_model(IDS, MASK), exact, rtol=0.05, atol=0.05)


WITH_PEFT_ALONE = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification

ids, out = torch.tensor(json.loads(sys.argv[2])), {}
for stage in ("sft", "ppo"):
    model = AutoPeftModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{stage}/adapter").eval()
    out[stage] = model(ids).logits.tolist()
folder = f"{sys.argv[1]}/reward_model/adapter"
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=255).eval()
out["reward_model"] = model(ids).logits.tolist()
assert "plaudit" not in sys.modules
print(json.dumps(out))
"""


def test_peft_alone_opens_the_adapter_of_every_stage_by_its_folder(adapted_run, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", WITH_PEFT_ALONE, str(adapted_run.path), json.dumps(IDS.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = {stage: torch.tensor(logits) for stage, logits in json.loads(done.stdout).items()}
    with torch.no_grad():
        for stage in ("sft", "ppo"):
            ours = load_causal_lm(adapted_run.model(stage)).eval()(IDS).logits
            torch.testing.assert_close(theirs[stage], ours, rtol=1e-5, atol=1e-5)
        scores = load_reward_model(adapted_run.model("reward_model"), 255).eval()(IDS).logits
        torch.testing.assert_close(theirs["reward_model"], scores, rtol=1e-5, atol=1e-5)
