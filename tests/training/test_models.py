import dataclasses

import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit import rng
from plaudit.algorithms.ppo import ppo
from plaudit.models.loading import save
from plaudit.rewards import ModelReward
from plaudit.training.models import Models
from plaudit.training.optimizer import adamw, step
from plaudit.training.rollouts import generate

FROZEN = ("wte.", "wpe.", "h.0.")  # of two layers, where the top one learns
PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]]


def with_settings(run, **settings):
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **settings))


def load(run):
    return Models.load(run, "ppo", value_head=True)


def places(lm):
    """Where the matrices lie in memory. (Vectors of ones or zeros are equal by chance, and then shared.)"""
    return {name: p.data_ptr() for name, p in lm.base_model.named_parameters() if p.ndim > 1}


def assert_scores_are_those_of_transformers(models, run, times=1):
    """Scores of sampled responses, and the logits of the saved reward model for each text alone."""
    prompts = PROMPTS * times
    noise = rng.uniforms(range(len(prompts)), 9, 0, "test", 0, "noise")
    responses = generate(models.policy, prompts, noise, models.tokenizer, 1.0)
    scores = ModelReward(models.reward_model)(responses)
    classifier = AutoModelForSequenceClassification.from_pretrained(run.folder("reward_model")).eval()
    with torch.no_grad():
        rows = zip(responses.ids, responses.attention_mask, strict=True)
        exact = torch.stack([classifier(ids[mask][None]).logits[0, 0] for ids, mask in rows])
    if run.config.dtype == "float32":
        torch.testing.assert_close(scores, exact, rtol=1e-4, atol=1e-4)
    else:
        assert (scores - exact).square().mean().sqrt() <= 0.02 * exact.std()


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("layers", [2, 3])
def test_the_models_share_every_frozen_matrix_in_which_they_are_equal(bare_run, engine, layers):
    """The reward model differs from SFT in the second layer, and so, of three, above the first."""
    run = with_settings(bare_run(reward_on_sft=True, layers=layers, train_layers=1), engine=engine)
    models = load(run)
    policy, reference, reward_model = map(places, (models.policy.lm, models.reference, models.reward_model.classifier))
    top = f"h.{layers - 1}."
    for name, place in policy.items():
        assert (reference[name] == place) == (not name.startswith(top)), name
        assert (reward_model[name] == place) == (not name.startswith((top, "h.1."))), name
    frozen = (models.reference, models.reward_model)
    assert not any(p.requires_grad for model in frozen for p in model.parameters())
    assert_scores_are_those_of_transformers(models, run)


def test_a_reward_model_in_which_every_layer_learned_shares_nothing(bare_run):
    run = bare_run(train_layers=1)
    models = load(run)
    assert not set(places(models.policy.lm).values()) & set(places(models.reward_model.classifier).values())
    assert_scores_are_those_of_transformers(models, run)


def test_where_every_layer_learns_reference_and_reward_model_still_share(bare_run):
    run = bare_run(reward_on_sft=True, train_layers=0)
    models = load(run)
    policy, reference, reward_model = map(places, (models.policy.lm, models.reference, models.reward_model.classifier))
    assert not set(policy.values()) & set(reference.values())
    for name, place in reference.items():
        assert (reward_model[name] == place) == name.startswith(FROZEN), name
    assert all(p.requires_grad for p in models.policy.parameters())
    assert_scores_are_those_of_transformers(models, run)


def test_a_policy_that_differs_from_sft_in_every_layer_is_measured_rightly(bare_run, tiny_tokenizer):
    run = bare_run(reward_on_sft=True, train_layers=1)
    save(make_lm(seed=2), tiny_tokenizer, run.folder("ppo"))
    run.finish("ppo", {})
    models = Models.load(run, "ppo", stage="ppo")
    assert torch.equal(models.policy.lm.transformer.wte.weight, make_lm(seed=2).transformer.wte.weight)
    assert_scores_are_those_of_transformers(models, run)


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("train_layers", [0, 1, 2])
def test_the_reference_does_not_move_while_the_policy_learns(bare_run, train_layers, engine):
    run = with_settings(bare_run(reward_on_sft=True, train_layers=train_layers), engine=engine)
    models = load(run)
    lm = models.policy.lm
    ids = torch.tensor([[0, 5, 6, 7, 8]])
    sft = AutoModelForCausalLM.from_pretrained(run.folder("sft")).eval()
    optimizer = adamw(models.policy, 1e-2, weight_decay=0.1)  # decay would move frozen weights too
    frozen = {n: p.detach().clone() for n, p in lm.named_parameters() if not p.requires_grad}
    for _ in range(3):
        lm(ids, labels=ids).loss.backward()
        step(optimizer, models.policy, 1.0, "test")
    with torch.no_grad():
        assert not torch.allclose(lm(ids).logits, sft(ids).logits, atol=0.1)
        torch.testing.assert_close(models.reference(ids).logits, sft(ids).logits, rtol=1e-4, atol=1e-5)
    for name, p in sft.named_parameters():
        assert torch.equal(models.reference.get_parameter(name), p), name
    assert all(torch.equal(lm.get_parameter(name), p) for name, p in frozen.items())


def test_there_is_no_dropout_in_any_of_them(bare_run):
    models = load(bare_run(reward_on_sft=True, train_layers=1))
    assert not any(
        part.training for m in (models.policy, models.reference, models.reward_model) for part in m.modules()
    )


def test_in_bfloat16_frozen_matrices_are_rounded_in_memory_and_float32_in_the_policy_that_is_saved(bare_run):
    run = with_settings(bare_run(reward_on_sft=True, train_layers=1, iterations=1), dtype="bfloat16")
    models = load(run)
    parameters = dict(models.policy.lm.named_parameters())
    assert parameters["transformer.h.0.mlp.c_fc.weight"].dtype == torch.bfloat16
    assert models.reference.transformer.h[1].mlp.c_fc.weight.dtype == torch.bfloat16
    list(ppo(run))
    before, after = (AutoModelForCausalLM.from_pretrained(run.folder(s)).state_dict() for s in ("sft", "ppo"))
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        frozen = name.removeprefix("transformer.").startswith((*FROZEN, "lm_head"))
        assert torch.equal(value, after[name]) == frozen, name


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("reward_on_sft", [True, False])
@pytest.mark.parametrize("train_layers", [0, 1])
def test_in_bfloat16_scores_are_near_those_of_float32(bare_run, reward_on_sft, train_layers, engine):
    run = bare_run(reward_on_sft=reward_on_sft, train_layers=train_layers)
    run = with_settings(run, dtype="bfloat16", engine=engine)
    assert_scores_are_those_of_transformers(load(run), run, times=20)
