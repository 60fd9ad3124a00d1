"""The stages with LoRA: one set of base weights, adapters that learn, plain folders that come out."""

import dataclasses
import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_lm
from transformers import AutoModelForCausalLM

from plaudit.algorithms.actors import Actors
from plaudit.algorithms.ppo import ppo
from plaudit.config import build, default_settings
from plaudit.errors import ModelError, RunError
from plaudit.evaluation.doctor import memory_needed
from plaudit.evaluation.evaluate import Models
from plaudit.evaluation.frontier import frontier
from plaudit.models.heads import Policy, score_texts
from plaudit.models.loading import load_causal_lm, load_reward_model
from plaudit.models.lora import FOLDER
from plaudit.models.precision import is_rounded
from plaudit.pipeline import check, steps
from plaudit.training.checkpoint import load_weights
from plaudit.training.run import STAGES, Run

IDS = torch.tensor([[0, 5, 6, 7, 11], [0, 9, 13, 14, 15]])
MASK = torch.ones_like(IDS, dtype=torch.bool)
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def with_lora(config, **train_layers):
    """The settings with adapters in every stage, in as many top blocks as are given."""
    parts = {}
    for stage, lr in (("sft", 2e-2), ("reward_model", 2e-2), ("ppo", 1e-2)):
        chosen = {"lora_rank": 4, "lr": lr, "train_layers": train_layers.get(stage, 0)}
        parts[stage] = dataclasses.replace(getattr(config, stage), **chosen)
    parts["reward_model"] = dataclasses.replace(parts["reward_model"], epochs=6)  # a few adapters learn slowly
    return dataclasses.replace(config, **parts)


@pytest.fixture(scope="module")
def adapted_run(tmp_path_factory, tiny_config):
    """The whole pipeline with LoRA: SFT in all blocks, reward model and policy in the upper one of two."""
    config = with_lora(tiny_config, reward=1, ppo=1)
    run = Run.open(tmp_path_factory.mktemp("lora") / "run", config, resume=False, overwrite=False, stages=STAGES)
    for _ in steps(config, run):
        pass
    return run


def changed(before, after):
    """Names of the weights that differ between two model files."""
    before, after = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_every_stage_leaves_a_plain_model_that_differs_in_the_adapted_matrices_alone(adapted_run, tiny_model_folder):
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
    assert sft["perplexity"] < 0.9 * sft["perplexity_before"]  # the frozen embeddings of a random model allow no more
    assert adapted_run.summary("reward_model")["accuracy_ci95"][0] > 0.5  # beyond chance, through one block of two


def test_kl_starts_at_zero_and_the_policy_moves(adapted_run):
    lines = [json.loads(line) for line in (adapted_run.folder("ppo") / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] == 0  # to the last bit
    assert lines[-1]["kl"] > 1e-3
    assert lines[0]["score"] != lines[-1]["score"]
    said = json.loads((adapted_run.path / "evaluation.json").read_text())
    assert said["policy"]["kl_mean"] > 1e-3


def places(model):
    return {name: p.data_ptr() for name, p in model.named_parameters()}


def test_policy_reference_and_reward_model_stand_on_one_set_of_weights(adapted_run):
    actors = Actors.load(adapted_run)
    base = set(places(actors.policy.lm).values())
    assert set(places(actors.reference).values()) <= base
    own = {name for name, place in places(actors.reward_model).items() if place not in base}
    sides = [f"transformer.h.1.{part}.lora_{side}.default.weight" for part in MATRICES for side in "AB"]
    assert own == {"score.weight", *sides}
    learning = {name for name, p in actors.policy.named_parameters() if p.requires_grad}
    assert learning == {"value_head.weight", "value_head.bias", *(f"lm.{name}" for name in sides)}
    assert not any(p.requires_grad for model in (actors.reference, actors.reward_model) for p in model.parameters())
    assert actors.depths == (1, 1)
    with torch.no_grad():
        plain = load_reward_model(adapted_run.model("reward_model"), actors.tokenizer.pad_id).eval()
        expected = score_texts(plain, IDS, MASK)
        torch.testing.assert_close(score_texts(actors.reward_model, IDS, MASK), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("train_layers", "depth"), [(0, 0), (1, 1)])
def test_states_are_kept_below_the_blocks_that_learn_and_shared_where_nobody_differs(adapted_run, train_layers, depth):
    settings = dataclasses.replace(adapted_run.config.ppo, train_layers=train_layers)
    run = Run(adapted_run.path, dataclasses.replace(adapted_run.config, ppo=settings))
    actors = Actors.load(run)
    assert actors.depths == (depth, depth)
    assert set(places(actors.reference).values()) <= set(places(actors.policy.lm).values())


def test_a_reward_model_with_adapters_in_all_blocks_shares_weights_and_no_states(adapted_run, tmp_path, tiny_config):
    config = with_lora(tiny_config, ppo=1)
    run = Run(tmp_path / "run", config)
    run.path.mkdir()
    (run.path / "sft").symlink_to(adapted_run.folder("sft"))
    for _ in steps(config, run, ("reward_model",)):
        pass
    actors = Actors.load(run)
    assert actors.depths == (1, 0)
    own = set(places(actors.reward_model).items())
    base = set(places(actors.policy.lm).values())
    assert all("lora_" in name or name == "score.weight" for name, place in own if place not in base)


def test_a_reward_model_that_learned_whole_goes_with_a_policy_that_has_adapters(bare_run):
    run = bare_run(lora_rank=2)
    actors = Actors.load(run)
    assert set(places(actors.reference).values()) <= set(places(actors.policy.lm).values())
    assert actors.reward_model.score.weight.shape == (1, 32)
    assert actors.reward_depth == 0
    for _ in ppo(run.config, run):
        pass


def test_training_leaves_the_base_weights_as_they_were_to_the_last_bit(bare_run, monkeypatch):
    run, loaded = bare_run(lora_rank=2, train_layers=0, iterations=2, lr=1e-2), []
    load = Actors.load
    monkeypatch.setattr(Actors, "load", lambda run: loaded.append(load(run)) or loaded[0])
    for _ in ppo(run.config, run):
        pass
    actors, sft = loaded[0], load_causal_lm(run.model("sft")).state_dict()
    now = {name.replace(".base_layer.", "."): p for name, p in actors.policy.lm.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in sft.items())
    assert all(torch.equal(value, sft[name]) for name, value in actors.reference.state_dict().items())
    adapters = {name: p for name, p in actors.policy.named_parameters() if "lora_B" in name}
    assert len(adapters) == 8
    assert all(p.any() for p in adapters.values())
    assert actors.policy.value_head.weight.any()


def test_a_resumed_run_is_the_same_byte_for_byte_and_keeps_only_what_learns(bare_run):
    settings = {"lora_rank": 2, "train_layers": 1, "iterations": 4, "save_every": 1}
    whole, half = bare_run("whole", **settings), bare_run("half", **settings)
    for _ in ppo(whole.config, whole):
        pass
    reports = ppo(half.config, half)
    next(reports)
    next(reports)
    reports.close()
    ((_, kept),) = sorted(half.checkpoints("ppo").weights().items())[-1:]
    names = {name.removeprefix("model/lm.") for name in load_file(kept) if name.startswith("model/")}
    assert all("lora_" in name or "value_head" in name for name in names)
    assert not [name for name in load_file(kept) if "base_layer" in name]
    torch.manual_seed(99)  # nothing depends on it
    for _ in ppo(half.config, half):
        pass
    for name in ("model.safetensors", "value_head.safetensors", "metrics.jsonl", f"{FOLDER}/adapter_model.safetensors"):
        assert (half.folder("ppo") / name).read_bytes() == (whole.folder("ppo") / name).read_bytes(), name


def test_evaluation_measures_the_plain_folders_without_peft(adapted_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    models = Models(adapted_run)
    assert not any("lora_" in name for lm in (models.policy, models.actors.reward_model) for name in places(lm))
    assert models.actors.reward_depth  # the lower block is still everybody's


def test_the_frontier_measures_checkpoints_with_their_adapters(adapted_run):
    kl_coef = adapted_run.config.ppo.kl_coef
    for _ in frontier(adapted_run, [kl_coef], draws=16):
        pass
    sub = adapted_run.path / "frontier" / f"kl_coef-{kl_coef:g}"
    again = sub / "ppo" / "model.safetensors"
    assert again.read_bytes() == (adapted_run.folder("ppo") / "model.safetensors").read_bytes()
    *path, own = json.loads((adapted_run.path / "frontier.json").read_text())["ppo"]
    assert [point["iteration"] for point in path] == [1, 2, 3, 4]
    assert path[-1] == own  # a checkpoint put onto SFT and merged is the saved policy
    assert path[0]["kl_mean"] < own["kl_mean"]


def test_a_checkpoint_with_adapters_is_not_read_into_a_model_without(bare_run):
    run = bare_run(lora_rank=2, iterations=1)
    for _ in ppo(run.config, run):
        pass
    (weights,) = run.checkpoints("ppo").weights().values()
    with pytest.raises(RunError, match="lora_A"):
        load_weights(weights, Policy(load_causal_lm(run.model("sft"))))


@pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo"])
def test_a_run_that_needs_peft_is_refused_before_anything_is_written(tmp_path, tiny_config, monkeypatch, stage):
    section = dataclasses.replace(getattr(tiny_config, stage), lora_rank=4)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'plaudit\[lora\]'"):
        check(dataclasses.replace(tiny_config, **{stage: section}), tmp_path / "run", STAGES)
    assert not (tmp_path / "run").exists()


def test_the_doctor_knows_that_adapters_need_less_memory(tiny_config):
    lm, adapted = make_lm(width=128), with_lora(tiny_config)
    weights = 4 * sum(p.numel() for p in lm.parameters())
    saved = memory_needed(tiny_config, lm, 8) - memory_needed(adapted, lm, 8)
    trunk = 4 * sum(p.numel() for p in lm.transformer.h.parameters())
    assert saved == weights + 4 * trunk  # no reward model, gradient, moments and reference beside the one base


def test_lora_is_off_unless_asked_for():
    assert {name: value for name, value in default_settings().items() if "lora_rank" in name} == {
        "sft.lora_rank": 0, "reward_model.lora_rank": 0, "ppo.lora_rank": 0,
    }  # fmt: skip
    assert build({"ppo.lora_rank": 8}).ppo.lora_alpha == 16


def test_in_bfloat16_only_the_output_embedding_is_rounded_and_matrices_stay_to_be_added_to(adapted_run):
    run = dataclasses.replace(adapted_run, config=dataclasses.replace(adapted_run.config, dtype="bfloat16"))
    actors = Actors.load(run)
    models = (actors.policy.lm, actors.reference, actors.reward_model)
    assert all(p.dtype == torch.float32 for model in models for p in model.parameters())
    assert is_rounded(actors.policy.lm.lm_head)
    assert is_rounded(actors.reference.lm_head)
