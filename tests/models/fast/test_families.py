import re

import pytest
import torch
from tiny import FAMILIES, LLAMA_LIKE, make_family, make_lm, padded_texts
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

from plaudit.errors import ModelError
from plaudit.models.packing import pack
from plaudit.models.trunk import (
    by_blocks,
    freeze_below,
    frozen_blocks,
    hidden_states,
    padded_hidden_states,
    position_ids,
    share_below,
    states_below,
)

LENGTHS, LEFT = [100, 3, 40, 60, 1, 25, 90], (1, 2)
DEPTHS = (0, 1, 2)
# What learns of three blocks when the top one does, as transformers names it.
TOP = {
    "gpt2": ("transformer.h.2.", "transformer.ln_f."),
    "gpt_neox": ("gpt_neox.layers.2.", "gpt_neox.final_layer_norm."),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), ("model.layers.2.", "model.norm.")),
}
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def _gradients(lm, states):
    """Gradients of a fixed weighing of the states (N, D), by parameter; None where there is none."""
    lm.zero_grad()
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * weights).sum().backward()
    return {name: p.grad for name, p in lm.base_model.named_parameters()}


def _sliding():
    """Attention that looks at a window of four tokens."""
    config = Qwen2Config(**LLAMA_LIKE, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def _unknown():
    lm = make_lm(vocab=64).eval()
    lm.config.model_type = "mamba"
    return lm


def test_positions_start_at_zero_after_left_padding():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@every_family
def test_block_by_block_in_shared_rows_gives_the_states_and_gradients_of_the_model_itself(family):
    lm = make_family(family)
    ids, mask = padded_texts(LENGTHS, LEFT)
    assert by_blocks(lm)
    assert pack(ids, mask).ids.shape == (2, 160)  # 319 tokens: the seven texts do share rows
    for wanted in (mask, mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.3)):
        ours, plain = hidden_states(lm, ids, mask, wanted), padded_hidden_states(lm, ids, mask)[wanted]
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        gradients, expected = _gradients(lm, ours), _gradients(lm, plain)
        assert all(g is not None for g in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("depth", DEPTHS)
@every_family
def test_what_the_lowest_blocks_leave_and_what_the_others_make_of_it_is_the_model(family, depth):
    lm = make_family(family)
    ids, mask = padded_texts(LENGTHS, LEFT)
    with torch.no_grad():
        below = states_below(lm, depth, ids, mask)
        theirs = lm.base_model(
            input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), output_hidden_states=True
        )
        if depth:
            torch.testing.assert_close(below.states[mask], theirs.hidden_states[depth][mask], rtol=1e-4, atol=1e-5)
        whole = hidden_states(lm, ids, mask, mask, below)
    assert below.depth == depth
    assert not below.states[~mask].any()
    assert not below.states.requires_grad
    torch.testing.assert_close(whole, theirs.last_hidden_state[mask], rtol=1e-4, atol=1e-5)


@every_family
def test_the_blocks_that_learn_get_the_gradients_of_the_whole_model_and_no_other_gets_any(family):
    lm = make_family(family)
    depth = freeze_below(lm, 1)
    ids, mask = padded_texts(LENGTHS, LEFT)
    gradients = _gradients(lm, hidden_states(lm, ids, mask, mask, states_below(lm, depth, ids, mask)))
    lm.requires_grad_(True)
    expected = _gradients(lm, padded_hidden_states(lm, ids, mask)[mask])
    learning = {name for name, g in gradients.items() if g is not None}
    prefix = lm.base_model_prefix + "."
    assert learning == {name for name in expected if (prefix + name).startswith(TOP[family])}
    for name in learning:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)


@every_family
def test_only_the_top_blocks_and_the_last_norm_learn_and_the_output_embedding_stays(family):
    lm = make_family(family)
    assert freeze_below(lm, 1) == 2
    learning = {name for name, p in lm.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in lm.named_parameters() if n.startswith(TOP[family])}
    assert not lm.get_output_embeddings().weight.requires_grad


def test_zero_layers_means_all_and_more_than_there_are_is_refused():
    lm = make_lm()
    assert freeze_below(lm, 0) == 0
    assert all(p.requires_grad for p in lm.parameters())
    assert frozen_blocks(lm, 2) == 0
    with pytest.raises(ModelError, match="has 2 blocks"):
        freeze_below(lm, 3)


@pytest.mark.parametrize("lm", [_sliding(), _unknown()], ids=["sliding window", "unknown family"])
def test_what_is_not_known_to_be_of_such_blocks_runs_by_itself_and_learns_as_a_whole(lm):
    assert not by_blocks(lm)
    ids, mask = padded_texts([9, 2, 6])
    with torch.no_grad():
        assert torch.equal(hidden_states(lm, ids, mask, mask), padded_hidden_states(lm, ids, mask)[mask])
    assert frozen_blocks(lm, 0) == 0
    with pytest.raises(ModelError, match=f"blocks of a {lm.config.model_type} are not known.*use 0 to train all"):
        freeze_below(lm, 1)
    assert all(p.requires_grad for p in lm.parameters())


def _shared(a, b):
    """Names of the parameters that lie at the same place in memory."""
    places = {name: p.data_ptr() for name, p in a.base_model.named_parameters()}
    return {name for name, p in b.base_model.named_parameters() if places[name] == p.data_ptr()}


def _lower(lm):
    """Names of the parameters of a trunk that freeze_below leaves out of learning."""
    freeze_below(lm, 1)
    return {name for name, p in lm.base_model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("head", [AutoModelForCausalLM, AutoModelForSequenceClassification])
@every_family
def test_equal_trunks_lie_in_memory_once(family, head):
    owner, other = make_family(family), head.from_config(FAMILIES[family]()).eval()
    other.base_model.load_state_dict(owner.base_model.state_dict())
    with torch.no_grad():  # a top block that has learned something of its own
        next(p for n, p in other.named_parameters() if n.startswith(TOP[family])).mul_(1.5)
    ids, mask = padded_texts([9, 2, 6], left=(1,))
    with torch.no_grad():
        before = [padded_hidden_states(m, ids, mask) for m in (owner, other)]
        assert _shared(owner, other) == set()
        assert share_below(owner, other, 2) == 2
        after = [padded_hidden_states(m, ids, mask) for m in (owner, other)]
        begun = hidden_states(other, ids, mask, mask, states_below(owner, 2, ids, mask))
    assert _shared(owner, other) == _lower(owner)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(begun, before[1][mask], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[0][mask], before[1][mask])
    if head is AutoModelForCausalLM and owner.config.tie_word_embeddings:
        assert other.get_output_embeddings().weight is owner.get_output_embeddings().weight


@every_family
def test_what_lies_below_the_first_number_that_differs_is_shared(family):
    lower = sorted(_lower(make_family(family)))
    for changed in lower:
        owner, other = make_family(family), make_family(family)
        with torch.no_grad():
            dict(other.base_model.named_parameters())[changed].view(-1)[-1] += 1e-6
        block = re.match(r"(?:h|layers)\.(\d)\.", changed)
        shared = int(block[1]) if block else 0
        assert share_below(owner, other, 2) == shared, changed
        above = tuple(f"{part}.{i}." for part in ("h", "layers") for i in range(shared, 2))
        same = {name for name in lower if not name.startswith(above)} if block else set()
        assert _shared(owner, other) == same, changed


def test_nothing_is_shared_where_nothing_is_frozen_nor_between_families(tiny_lm):
    owner, other = make_family("gpt2"), make_family("gpt2")
    assert not share_below(owner, other, 0)
    assert _shared(owner, other) == set()
    assert not share_below(owner, make_family("llama"), 2)
    assert isinstance(owner.base_model.wte, nn.Embedding)
    with torch.no_grad():
        wider = make_lm(vocab=65, layers=3, width=16)
    assert not share_below(owner, wider, 2)
