import pytest
import torch
from tiny import FAMILIES, OTHER_FAMILIES, make_family, padded_texts
from torch import nn
from transformers import AutoModelForSequenceClassification

from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.families import common_depth, embed, frozen_depth, run_layers, supports, top_states
from plaudit.models.fast.packing import pack
from plaudit.models.layers import freeze_lower_layers, share_weights
from plaudit.models.plain import position_ids

LENGTHS, LEFT = [100, 3, 40, 60, 1, 25, 90], (1, 2)
every_family = pytest.mark.parametrize("family", FAMILIES)


def full_forward(lm, ids, mask):
    """transformers' own forward over the padded batch: outputs of the embeddings and of every layer, (B, T, D) each."""
    output = lm.base_model(
        input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), output_hidden_states=True
    )
    return [*output.hidden_states[:-1], output.last_hidden_state]


def gradients(lm, states):
    """Gradients of a fixed weighted sum of the states (N, D), by parameter; None where there is none."""
    lm.zero_grad()
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * weights).sum().backward()
    return {name: p.grad for name, p in lm.base_model.named_parameters()}


@every_family
def test_states_and_gradients_of_long_texts_in_shared_rows_are_those_of_the_model(family, tmp_path):
    lm = make_family(family)
    ids, mask = padded_texts(LENGTHS, LEFT)
    assert pack(ids, mask).ids.shape == (2, 160)  # 319 tokens: the seven texts do share rows
    for wanted in (mask, mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.3)):
        ours = FastEngine(torch.float32, tmp_path).hidden_states(lm, ids, mask, wanted)
        plain = full_forward(lm, ids, mask)[-1][wanted]
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        found, expected = gradients(lm, ours), gradients(lm, plain)
        assert all(g is not None for g in found.values())
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@every_family
@torch.no_grad()
def test_some_layers_give_what_the_model_has_after_them(family):
    lm = make_family(family)
    ids, mask = padded_texts([9, 2, 6])
    expected, positions = full_forward(lm, ids, mask), position_ids(mask)
    order = torch.arange(9)
    attends = ((order <= order[:, None]) & (mask[:, None] | (order == order[:, None])))[:, None]
    hidden = embed(lm, ids, positions)
    torch.testing.assert_close(hidden, expected[0])
    for first, last in ((0, 1), (1, 3), (0, 2)):
        out = run_layers(lm, expected[first], (first, last), attends, positions)
        if last < 3:  # transformers gives the output of the last layer only after the last norm
            torch.testing.assert_close(out[mask], expected[last][mask], rtol=1e-4, atol=1e-5)
    places = mask.flatten().nonzero().squeeze(1)
    for depth in (0, 1, 2):
        top = top_states(lm, expected[depth], depth, places, attends, positions)
        torch.testing.assert_close(top, expected[3][mask], rtol=1e-4, atol=1e-5)


def test_families_whose_tokens_meet_elsewhere_than_in_full_attention_are_not_supported():
    assert all(supports(make_family(family)) for family in FAMILIES)
    assert not any(supports(make_family(family)) for family in OTHER_FAMILIES)


@every_family
def test_the_frozen_depth_counts_layers_below_the_first_that_learns(family):
    lm = make_family(family)
    assert frozen_depth(lm) == 0
    for train_layers in (3, 2, 1):
        lm.requires_grad_(True)
        freeze_lower_layers(lm, train_layers)
        assert frozen_depth(lm) == 3 - train_layers
    lm.get_input_embeddings().weight.requires_grad_(True)  # then no activation stays as it is
    assert frozen_depth(lm) == 0
    lm.requires_grad_(False)
    assert frozen_depth(lm) == 3


@every_family
def test_the_common_depth_ends_at_the_first_layer_that_differs(family):
    owner = make_family(family).requires_grad_(False)
    for name, _ in owner.base_model.named_parameters():
        other = AutoModelForSequenceClassification.from_config(FAMILIES[family]()).requires_grad_(False)
        other.base_model.load_state_dict(owner.base_model.state_dict())
        other.base_model.get_parameter(name).view(-1)[-1] += 1e-4
        share_weights(owner, other)
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        above = name.startswith(("ln_f", "norm", "final_layer_norm"))
        assert common_depth(owner, other) == (numbers[0] if numbers else 3 if above else 0), name


def test_models_of_other_kinds_have_nothing_in_common():
    owner = make_family("gpt2").requires_grad_(False)
    assert common_depth(owner, make_family("llama")) == 0
    assert common_depth(owner, make_family("gpt2")) == 0  # equal weights at other places in memory
    assert common_depth(owner, owner) == 3
    assert isinstance(owner.base_model.wte, nn.Embedding)
