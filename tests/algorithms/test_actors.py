import dataclasses

import pytest
import torch
from tiny import make_lm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit import rng
from plaudit.algorithms.actors import Actors
from plaudit.algorithms.ppo import answer, ppo
from plaudit.models.loading import save
from plaudit.training import optimizer as optim

BELOW = ("wte.", "wpe.", "h.0.")  # of two blocks, where the top one learns
PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 21, 22]]


def _places(lm):
    """Where the matrices lie. (Vectors that are equal by chance, all ones or zeros, may be shared by anybody.)"""
    return {name: p.data_ptr() for name, p in lm.base_model.named_parameters() if p.ndim > 1}


def _answered(actors, run, times=1):
    prompts = PROMPTS * times
    return answer(actors, prompts, rng.uniforms(range(len(prompts)), 9, 0, "test", 0, "noise"), 1.0, run)


def _scored_by_transformers(run, responses):
    """(B,) logits of each bare text, by the reward model as its files hold it."""
    model = AutoModelForSequenceClassification.from_pretrained(run.folder("reward_model")).eval()
    with torch.no_grad():
        rows = zip(responses.ids, responses.attention_mask, strict=True)
        return torch.stack([model(ids[mask][None]).logits[0, 0] for ids, mask in rows])


def test_one_trunk_lies_in_memory_and_three_models_stand_on_it(bare_run):
    run = bare_run(reward_on_sft=True, train_layers=1)
    actors = Actors.load(run)
    assert actors.depths == (1, 1)
    policy, reference, reward_model = map(_places, (actors.policy.lm, actors.reference, actors.reward_model))
    for name, place in policy.items():
        assert (reference[name] == place) == (reward_model[name] == place) == name.startswith(BELOW), name
    assert not any(p.requires_grad for m in (actors.reference, actors.reward_model) for p in m.parameters())
    responses, logits = _answered(actors, run)
    assert responses.below.depth == 1
    torch.testing.assert_close(logits, _scored_by_transformers(run, responses), rtol=1e-4, atol=1e-4)


def test_a_reward_model_that_left_the_trunk_lower_down_begins_lower_down(bare_run):
    run = bare_run(reward_on_sft=True, layers=3, train_layers=1)
    actors = Actors.load(run)
    assert actors.depths == (2, 1)
    policy, reward_model = map(_places, (actors.policy.lm, actors.reward_model))
    for name, place in policy.items():
        assert (reward_model[name] == place) == name.startswith(BELOW), name
    responses, logits = _answered(actors, run)
    assert (responses.below.depth, responses.shared.depth) == (2, 1)
    torch.testing.assert_close(logits, _scored_by_transformers(run, responses), rtol=1e-4, atol=1e-4)


def test_a_reward_model_of_which_every_block_learned_stands_on_its_own(bare_run):
    run = bare_run(train_layers=1)
    actors = Actors.load(run)
    assert actors.depths == (1, 0)
    assert not set(_places(actors.policy.lm).values()) & set(_places(actors.reward_model).values())
    responses, logits = _answered(actors, run)
    assert responses.below.depth == 1
    torch.testing.assert_close(logits, _scored_by_transformers(run, responses), rtol=1e-4, atol=1e-4)


def test_where_every_block_learns_the_policy_stands_alone_and_the_frozen_two_share_what_is_equal(bare_run):
    actors = Actors.load(bare_run(reward_on_sft=True, train_layers=0))
    assert actors.depths == (0, 0)
    policy, reference, reward_model = map(_places, (actors.policy.lm, actors.reference, actors.reward_model))
    assert not set(policy.values()) & set(reference.values())
    for name, place in reference.items():
        assert (reward_model[name] == place) == name.startswith(BELOW), name
    assert all(p.requires_grad for p in actors.policy.parameters())


def test_a_policy_that_left_the_sft_model_in_every_block_begins_at_the_ids(bare_run, tiny_tokenizer):
    run = bare_run(reward_on_sft=True, train_layers=1)
    save(make_lm(seed=2), tiny_tokenizer, run.folder("ppo"))
    run.finish("ppo", {})
    actors = Actors.load(run, "ppo")
    assert actors.depths == (0, 0)
    responses, logits = _answered(actors, run)
    torch.testing.assert_close(logits, _scored_by_transformers(run, responses), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train_layers", [0, 1, 2])
def test_the_reference_does_not_move_while_the_policy_learns(bare_run, train_layers):
    run = bare_run(reward_on_sft=True, train_layers=train_layers)
    actors = Actors.load(run)
    lm = actors.policy.lm
    ids = torch.tensor([[0, 5, 6, 7, 8]])
    sft = AutoModelForCausalLM.from_pretrained(run.folder("sft")).eval()
    optimizer = optim.adamw(actors.policy, 1e-2, weight_decay=0.1)  # decay too would move what is not meant to learn
    frozen = {n: p.detach().clone() for n, p in lm.named_parameters() if not p.requires_grad}
    for _ in range(3):
        optim.step(lm(ids, labels=ids).loss, actors.policy, optimizer, 1.0, "test")
    with torch.no_grad():
        assert not torch.allclose(lm(ids).logits, sft(ids).logits, atol=0.1)
        torch.testing.assert_close(actors.reference(ids).logits, sft(ids).logits, rtol=1e-4, atol=1e-5)
    for name, p in sft.named_parameters():
        assert torch.equal(actors.reference.get_parameter(name), p), name
    assert all(torch.equal(lm.get_parameter(name), p) for name, p in frozen.items())


def test_there_is_no_dropout_in_any_of_them(bare_run):
    actors = Actors.load(bare_run(reward_on_sft=True, train_layers=1))
    models = (actors.policy, actors.reference, actors.reward_model)
    assert not any(part.training for model in models for part in model.modules())


def test_in_bfloat16_frozen_matrices_are_halved_in_memory_and_whole_in_the_policy_that_is_saved(bare_run):
    run = bare_run(reward_on_sft=True, train_layers=1, iterations=1)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, dtype="bfloat16"))
    actors = Actors.load(run)
    parameters = dict(actors.policy.lm.named_parameters())
    lower, upper = (parameters[f"transformer.h.{k}.mlp.c_fc.weight"] for k in (0, 1))
    assert (lower.dtype, upper.dtype) == (torch.bfloat16, torch.float32)
    assert actors.reference.transformer.h[1].mlp.c_fc.weight.dtype == torch.bfloat16
    list(ppo(run.config, run))
    before, after = (AutoModelForCausalLM.from_pretrained(run.folder(stage)).state_dict() for stage in ("sft", "ppo"))
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        frozen = name.removeprefix("transformer.").startswith((*BELOW, "lm_head"))
        assert torch.equal(value, after[name]) == frozen, name


@pytest.mark.parametrize("shared", [True, False])
def test_in_bfloat16_a_reward_model_rounds_its_own_embedding_and_nobody_elses(bare_run, shared):
    run = bare_run(reward_on_sft=shared, train_layers=0)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, dtype="bfloat16"))
    actors = Actors.load(run)
    tables = [m.get_input_embeddings().weight for m in (actors.policy.lm, actors.reference, actors.reward_model)]
    assert [t.dtype for t in tables] == [torch.float32, torch.float32, torch.float32 if shared else torch.bfloat16]
    responses, logits = _answered(actors, run, times=20)
    exact = _scored_by_transformers(run, responses)
    assert (logits - exact).square().mean().sqrt() <= 0.02 * exact.std()
