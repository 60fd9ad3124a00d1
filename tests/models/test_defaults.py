"""Settings that follow from the model's size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import labelled_texts, make_lm, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.cli import main
from plaudit.config import SECTIONS, build, default_settings, known_settings, preset, preset_names
from plaudit.models.defaults import FITTED, POLICIES, RULES, settings_for
from plaudit.models.loading import backbone_size
from plaudit.pipeline import steps
from plaudit.training.run import Run

SIZES = (10**5, 3 * 10**7, 10**8, 10**9, 7 * 10**9)


def test_the_default_model_keeps_its_settings():
    """They are those of the preset movie-gpt2, whatever the rules say."""
    assert preset("movie-gpt2") == {"model": "movie-gpt2"} | {
        name: value for name, value in default_settings().items() if name in FITTED
    }
    assert build() == build({"model": "movie-gpt2"}) == build(preset("movie-gpt2"))
    config = build()
    assert (config.sft.lr, config.sft.max_tokens, config.sft.train_layers) == (1e-3, 64, 0)
    assert (config.ppo.lr, config.ppo.batch_size, config.ppo.temperature, config.ppo.train_layers) == (
        3e-4,
        128,
        0.78,
        2,
    )


def test_every_preset_leaves_nothing_to_the_size_except_smollm2():
    """smollm2 has the defaults of movie-gpt2 where its own preset is silent."""
    for name in set(preset_names()) - {"smollm2"}:
        assert preset(name).keys() >= FITTED, name
    assert build({"model": "smollm2"}) == build(default_settings() | preset("smollm2"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 100), st.integers(4, 10**6))
def test_the_rules_give_every_setting_of_any_model_a_possible_value(parameters, layers, window):
    found = settings_for(parameters, layers, window, {})
    assert found.keys() == FITTED
    config = build({"model": "movie-gpt2"}, found)  # checks types and ranges
    for stage in ("sft", "reward_model", *POLICIES):
        assert 0 <= getattr(config, stage).train_layers <= layers
    for stage in ("sft", "reward_model"):
        assert getattr(config, stage).max_tokens <= window
    for policy in POLICIES:
        assert getattr(config, policy).max_new_tokens < window
        assert getattr(config, policy).batch_size % getattr(config, policy).minibatch_size == 0


def test_a_larger_model_has_lower_rates_and_smaller_shares():
    found = [settings_for(size, 24, 2048, {}) for size in SIZES]
    for stage in ("sft", "reward_model", *POLICIES):
        rates = [each[f"{stage}.lr"] for each in found]
        assert rates == sorted(rates, reverse=True)
        tops = [each[f"{stage}.train_layers"] or 24 for each in found]
        assert tops == sorted(tops, reverse=True)
        assert [each[f"{stage}.microbatch_size"] or 64 for each in found] == [64, 16, 8, 4, 2]
    assert len(RULES) == len(SIZES)


def test_what_is_given_stays_and_the_rest_follows_it():
    given = {"ppo.batch_size": 40, "sft.lr": 0.5, "reinforce.batch_size": 200}
    found = settings_for(10**8, 30, 2048, given)
    assert not found.keys() & given.keys()
    assert (found["ppo.minibatch_size"], found["reinforce.minibatch_size"]) == (10, 200)
    assert settings_for(10**8, 30, 2048, {"ppo.minibatch_size": 100})["ppo.batch_size"] == 100


def test_lora_learns_in_all_layers_at_ten_times_the_rate():
    plain, lora = (settings_for(10**9, 24, 2048, extra) for extra in ({}, {"ppo.lora_rank": 8}))
    assert (lora["ppo.lr"], lora["ppo.train_layers"]) == (pytest.approx(10 * plain["ppo.lr"]), 0)
    assert lora["sft.lr"] == plain["sft.lr"]


def test_the_size_is_that_of_the_backbone():
    lm = make_lm(vocab=300, width=32, layers=2)
    embeddings = 300 * 32
    assert backbone_size(lm) == sum(p.numel() for p in lm.parameters()) - embeddings
    untied = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    assert backbone_size(untied) == sum(p.numel() for p in untied.parameters()) - 2 * 64 * 16


def test_a_folder_s_settings_are_printed_in_one_line_and_kept(tiny_model_folder, tiny_data_folder, tmp_path, capsys):
    flags = ["--model", tiny_model_folder, "--data", tiny_data_folder, "--out", str(tmp_path / "run")]
    assert main(["sft", *flags, "--prompt-max", "3", "--epochs", "1", "--lr", "0.002"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("settings for ")]
    assert len(lines) == 1
    assert lines[0].startswith("settings for 0.04M parameters: evaluation batch_size 128; sft train_layers 0, ")
    assert "sft lr" not in lines[0]
    assert "ppo lr 0.0003, " in lines[0]
    config = Run.existing(tmp_path / "run").config
    assert (config.sft.lr, config.sft.max_tokens, config.ppo.max_new_tokens) == (0.002, 64, 32)
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "settings for" not in capsys.readouterr().err  # they are in config.toml


def test_help_says_which_defaults_depend_on_the_model(capsys):
    main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in FITTED:
        default = known_settings()[name].default
        if name.partition(".")[0] in SECTIONS:
            shown = f"{default:g}" if isinstance(default, float) else default
            assert f"default {shown} for movie-gpt2, otherwise by the model's size]" in text, name


@pytest.mark.parametrize(("width", "layers"), [(16, 1), (384, 6)], ids=["tiny", "11M"])
def test_training_with_the_settings_of_its_size_does_not_diverge(width, layers, tmp_path):
    """SFT and PPO on a random model: the loss falls, and KL stays finite and small."""
    folder, data = tmp_path / "model", tmp_path / "train.tsv"
    lm = make_lm(width=width, layers=layers, window=64)
    with torch.no_grad():  # as usual for a new model: make_lm's are larger
        for p in lm.parameters():
            if p.dim() == 2:
                p.mul_(0.1)
    lm.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    data.write_text(labelled_texts(12))
    given = {"model": str(folder), "data.name": str(data), "device": "cpu", "dtype": "float32", "prompt_max": 3}
    given |= {"sft.batch_size": 8, "sft.epochs": 3, "reward_model.batch_size": 8, "reward_model.epochs": 3}
    config = build(given, {"ppo.iterations": 2, "ppo.batch_size": 32, "ppo.max_new_tokens": 8})
    assert settings_for(backbone_size(lm), layers, 64, {})["sft.lr"] == config.sft.lr
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft", "reward_model", "ppo"))
    reports = list(steps(run, ("sft", "reward_model", "ppo")))
    for stage in ("sft", "reward_model"):
        losses = [report.metrics["loss"] for report in reports if report.stage == stage]
        quarter = len(losses) // 4
        assert sum(losses[-quarter:]) < sum(losses[:quarter]), stage
    summary = run.summary("sft")
    assert summary["perplexity"] < 0.9 * summary["perplexity_before"]
    assert all(0 <= report.metrics["kl"] < 5 for report in reports if report.stage == "ppo")
