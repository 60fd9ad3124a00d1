import copy

import pytest
import torch
from tiny import FAMILIES, make_family, make_lm, some_responses
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from plaudit import rng
from plaudit.models.fast import precision
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.precision import matrices, restore, round_frozen
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.training.optimizer import adamw, step

BF16 = torch.bfloat16


def engine_and_policy(lm, folder):
    engine = FastEngine(BF16, folder)
    engine.prepare(lm)
    return engine, Policy(lm, engine)


def take_steps(policy, optimizer, number=2):
    responses = some_responses()
    for _ in range(number):
        logprobs, _ = policy(responses.ids, responses.attention_mask, responses.response_mask)
        (-logprobs.mean()).backward()
        step(optimizer, policy, 1.0, "test")


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_those_of_layers_and_embeddings_and_no_head_for_value_or_score(family):
    lm = make_family(family)
    ours = {id(weight) for weight in matrices(lm)}
    vectors = {name for name, p in lm.named_parameters() if id(p) not in ours}
    assert {p.ndim for name, p in lm.named_parameters() if name in vectors} == {1}
    assert ours == {id(p) for p in lm.parameters() if p.ndim == 2}
    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config)
    assert id(classifier.score.weight) not in {id(weight) for weight in matrices(classifier)}


def test_frozen_matrices_are_rounded_and_those_that_learn_keep_float32_weights_in_the_optimizer(tmp_path):
    lm = make_lm(vocab=64).eval()
    before = copy.deepcopy(lm.state_dict())
    freeze_lower_layers(lm, 1)
    _, policy = engine_and_policy(lm, tmp_path)
    optimizer = adamw(policy, 0.01)
    formats = {name: p.dtype for name, p in lm.named_parameters()}
    assert {name for name, dtype in formats.items() if dtype == BF16} == {
        n for n, p in before.items() if p.ndim == 2
    } - {
        "lm_head.weight"  # the embedding by another name
    }
    assert policy.value_head.weight.dtype == torch.float32
    masters = {
        name: optimizer.state[p]["master"]
        for name, p in lm.named_parameters()
        if "master" in optimizer.state.get(p, {})
    }
    assert len(masters) == 4
    for name, master in masters.items():
        assert name.startswith("transformer.h.1.")
        assert torch.equal(master, before[name])


@pytest.mark.parametrize("train_layers", [0, 1])
def test_restore_gives_float32_weights_to_what_learned_and_to_what_was_frozen(tmp_path, train_layers):
    lm = make_lm(vocab=64).eval()
    before = copy.deepcopy(lm.state_dict())
    freeze_lower_layers(lm, train_layers)
    engine, policy = engine_and_policy(lm, tmp_path)
    optimizer = adamw(policy, 0.01)
    take_steps(policy, optimizer)
    masters = {
        name: optimizer.state[p]["master"]
        for name, p in lm.named_parameters()
        if "master" in optimizer.state.get(p, {})
    }
    learned = {name for name, p in lm.named_parameters() if p.requires_grad}
    opened = []
    engine.restore(lm, optimizer, lambda: opened.append(1) or make_lm(vocab=64))
    assert len(opened) == (1 if train_layers else 0)  # the model is opened again only where weights were frozen
    for name, p in lm.named_parameters():
        assert p.dtype == torch.float32
        assert p.grad is None
        if name not in learned:
            assert torch.equal(p, before[name]), name
        else:
            assert not torch.equal(p, before[name]), name
    for name, master in masters.items():
        assert torch.equal(lm.get_parameter(name), master)


def test_restore_without_an_optimizer_takes_everything_from_the_source():
    lm = make_lm().requires_grad_(False)
    round_frozen(lm, BF16)
    assert lm.transformer.wte.weight.dtype == BF16
    restore(lm, None, make_lm)
    assert all(torch.equal(p, q) for p, q in zip(lm.parameters(), make_lm().parameters(), strict=True))
    assert lm.lm_head.weight is lm.transformer.wte.weight


def test_float32_changes_nothing(tmp_path):
    lm = make_lm(vocab=64).eval()
    attention, before = lm.config._attn_implementation, copy.deepcopy(lm.state_dict())
    engine = FastEngine(torch.float32, tmp_path)
    engine.prepare(lm)
    optimizer = adamw(Policy(lm, engine), 0.01)
    assert lm.config._attn_implementation == attention
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in lm.state_dict().items())
    assert not any("master" in state for state in optimizer.state.values())


def test_rounded_matrices_can_be_left_in_float32_for_adapters(tmp_path):
    lm = make_lm(vocab=64).requires_grad_(False)
    FastEngine(BF16, tmp_path, round_matrices=False).prepare(lm)
    assert {p.dtype for p in lm.parameters()} == {torch.float32}


def test_log_probabilities_are_those_of_float32_within_the_rounding_of_bfloat16(tmp_path):
    responses = some_responses()
    batch = responses.ids, responses.attention_mask, responses.response_mask
    exact, _ = PlainEngine().logprobs(make_lm(vocab=64).eval(), *batch)
    _, policy = engine_and_policy(make_lm(vocab=64).eval(), tmp_path)
    adamw(policy, 0.01)
    found = policy(*batch)[0][responses.response_mask]
    assert found.mean().item() == pytest.approx(exact.mean().item(), rel=3e-3)


@pytest.mark.parametrize("asking", [1, 5])
def test_attention_is_computed_in_float32_on_a_cpu(asking):
    query, key, value = (
        rng.normals((2, 4, n, 8), 0, "test", name).to(BF16) for name, n in (("q", asking), ("k", 5), ("v", 5))
    )
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None, -asking:]
    module = make_lm().transformer.h[0].attn
    with torch.autocast("cpu", dtype=BF16):
        ours, _ = precision._attention(module, query, key, value, mask)
    attention = torch.nn.functional.scaled_dot_product_attention
    in_float32 = attention(query.float(), key.float(), value.float(), attn_mask=mask)
    assert ours.dtype == BF16
    assert torch.equal(ours, in_float32.to(BF16).transpose(1, 2))
    assert not torch.equal(in_float32.to(BF16), attention(query, key, value, attn_mask=mask))


def test_a_restored_model_is_saved_with_the_attention_of_transformers(tmp_path):
    lm = make_lm(vocab=64).eval()
    engine, policy = engine_and_policy(lm, tmp_path)
    optimizer = adamw(policy, 0.01)
    assert lm.config._attn_implementation != "sdpa"
    engine.restore(lm, optimizer, make_lm)
    lm.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert lm.config._attn_implementation == "sdpa"
