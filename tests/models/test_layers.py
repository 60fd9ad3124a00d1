import pytest
import torch
from tiny import FAMILIES, OTHER_FAMILIES, make_family, make_lm, some_responses
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

from plaudit.errors import ModelError
from plaudit.models.layers import freeze_lower_layers, layers, number_of_frozen_layers, share_weights
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy

# Prefixes of the parameters that learn when one of three layers does.
TOP = {
    "gpt2": ("transformer.h.2.", "transformer.ln_f."),
    "gpt_neox": ("gpt_neox.layers.2.", "gpt_neox.final_layer_norm."),
    "opt": ("model.decoder.layers.2.", "model.decoder.final_layer_norm."),
    "opt, narrow embedding": ("model.decoder.layers.2.",),
    "bloom": ("transformer.h.2.", "transformer.ln_f."),  # and not the norm of the embeddings
    "mamba": ("backbone.layers.2.", "backbone.norm_f."),
    **dict.fromkeys(
        (
            "llama",
            "qwen2",
            "qwen3",
            "gemma2, softcapped logits",
            "mistral, sliding window",
            "qwen2, sliding window",
        ),
        ("model.layers.2.", "model.norm."),
    ),
}
every_family = pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@every_family
def test_only_the_top_layers_and_the_last_norm_learn(family):
    lm = make_family(family)
    assert len(layers(lm)) == 3
    assert number_of_frozen_layers(lm, 1) == 2
    freeze_lower_layers(lm, 1)
    assert trainable(lm) == {name for name, _ in lm.named_parameters() if name.startswith(TOP[family])}
    assert trainable(lm)
    assert not lm.get_output_embeddings().weight.requires_grad


@every_family
def test_the_layers_that_learn_get_the_gradients_that_they_have_in_the_whole_model(family):
    responses, gradients = some_responses(), []
    for train_layers in (0, 1):
        lm = make_family(family)
        freeze_lower_layers(lm, train_layers)
        policy = Policy(lm, PlainEngine(), value_head=False)
        policy(responses.ids, responses.attention_mask, responses.response_mask)[0].sum().backward()
        gradients.append({name: p.grad for name, p in lm.named_parameters() if p.grad is not None})
    whole, top = gradients
    assert top.keys() == {name for name in whole if name.startswith(TOP[family])}
    for name, gradient in top.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_the_layers_of_a_classifier_are_found(family):
    config = make_family(family).config
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config)
    freeze_lower_layers(classifier, 2)
    depths = {name.split("layers.")[-1].split(".h.")[-1][0] for name in trainable(classifier) if "norm" not in name}
    assert {"1", "2"} <= depths
    assert "0" not in depths


def test_zero_layers_means_all_and_more_than_there_are_is_refused():
    lm = make_lm()
    freeze_lower_layers(lm, 0)
    assert all(p.requires_grad for p in lm.parameters())
    assert number_of_frozen_layers(lm, 2) == 0
    with pytest.raises(ModelError, match=r"ppo\.train_layers = 3: the model has 2 layers; use 0"):
        freeze_lower_layers(lm, 3, "ppo.train_layers")


def test_a_model_whose_layers_are_not_known_learns_as_a_whole_or_is_refused():
    lm = make_lm()
    lm.config.n_layer = 5
    freeze_lower_layers(lm, 0)
    assert all(p.requires_grad for p in lm.parameters())
    with pytest.raises(ModelError, match="layers of a gpt2 model are not known; use train_layers = 0"):
        freeze_lower_layers(lm, 1)


def shared(owner, other):
    """Names of the parameters of `other` that are in memory where those of `owner` are."""
    places = {name: p.data_ptr() for name, p in owner.base_model.named_parameters()}
    return {name for name, p in other.base_model.named_parameters() if places[name] == p.data_ptr()}


def logits(model):
    responses = some_responses()
    with torch.no_grad():
        return PlainEngine().hidden_states(model, responses.ids, responses.attention_mask, responses.attention_mask)


@pytest.mark.parametrize("head", [AutoModelForCausalLM, AutoModelForSequenceClassification])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_frozen_weights_are_in_memory_once(family, head):
    owner, other = make_family(family), head.from_config(FAMILIES[family]()).eval().requires_grad_(False)
    other.base_model.load_state_dict(owner.base_model.state_dict())
    with torch.no_grad():  # a top layer that has learned
        next(p for n, p in other.named_parameters() if n.startswith(TOP[family])).mul_(1.5)
    before = [logits(model) for model in (owner, other)]
    share_weights(owner, other)
    assert shared(owner, other) == set()  # the owner's weights still learn
    freeze_lower_layers(owner, 1)
    share_weights(owner, other)
    assert shared(owner, other) == {n for n, p in owner.base_model.named_parameters() if not p.requires_grad}
    after = [logits(model) for model in (owner, other)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(*after)
    if head is AutoModelForCausalLM and owner.config.tie_word_embeddings:
        assert other.get_output_embeddings().weight is owner.get_output_embeddings().weight


def test_weights_that_learn_or_differ_are_not_shared():
    owner, learning, frozen, different = (make_lm(seed=seed).requires_grad_(False) for seed in (0, 0, 0, 1))
    learning.requires_grad_(True)
    share_weights(owner, learning)
    share_weights(learning, frozen)
    share_weights(owner, different)
    assert shared(owner, learning) == shared(learning, frozen) == set()
    assert not {name for name in shared(owner, different) if owner.base_model.get_parameter(name).ndim == 2}
    share_weights(owner, frozen)
    assert all(p is q for p, q in zip(owner.parameters(), frozen.parameters(), strict=True))
    assert frozen.get_output_embeddings().weight is owner.get_input_embeddings().weight  # tied as before


def test_a_weight_of_another_shape_or_number_format_is_not_shared():
    owner = make_lm().requires_grad_(False)
    wider = make_lm(vocab=301).requires_grad_(False)
    share_weights(owner, wider)
    assert "wte.weight" not in shared(owner, wider)
    rounded = make_lm().requires_grad_(False).bfloat16()
    owner.bfloat16().float()  # numbers that bfloat16 can hold
    share_weights(owner, rounded)
    assert shared(owner, rounded) == set()


def test_a_number_that_differs_keeps_its_own_weight_only():
    for changed in ("wte.weight", "h.0.mlp.c_fc.weight", "h.1.attn.c_attn.bias"):
        owner, other = (GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2)) for _ in range(2))
        other.load_state_dict(owner.state_dict())
        for model in (owner, other):
            model.requires_grad_(False)
        other.base_model.get_parameter(changed).view(-1)[-1] += 1e-4
        share_weights(owner, other)
        assert {name for name, _ in owner.base_model.named_parameters()} - shared(owner, other) == {changed}
