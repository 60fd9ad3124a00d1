"""The fast engine gives what the plain one gives: states, log-probabilities, gradients, scores and sampled tokens."""

import copy

import numpy as np
import pytest
import torch
from tiny import FAMILIES, make_family, some_responses
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification

from plaudit.maths.logprobs import predicting
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.families import supports
from plaudit.models.layers import freeze_lower_layers, share_weights
from plaudit.models.lora import add_adapters
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.training.optimizer import adamw, step

BF16, F32 = torch.bfloat16, torch.float32


class Lora:
    lora_rank, lora_alpha = 2, 4


def both(family, dtype, train_layers, lora, attention, tmp_path):
    """The same policy under the plain and under the fast engine."""
    policies = []
    for fast in (False, True):
        lm = make_family(family)
        lm.config._attn_implementation = attention
        freeze_lower_layers(lm, train_layers)
        if lora:
            add_adapters(lm, Lora(), 1, "test")
            for name, p in lm.named_parameters():
                if ".lora_B." in name:  # an adapter that has learned something
                    generator = torch.Generator().manual_seed(len(name))
                    p.data = 0.2 * torch.randn(p.shape, generator=generator)
        engine = FastEngine(dtype, tmp_path, round_matrices=not lora) if fast else PlainEngine(dtype)
        engine.prepare(lm)
        policy = Policy(lm, engine)
        with torch.no_grad():
            policy.value_head.weight.copy_(torch.linspace(-1, 1, policy.value_head.weight.numel()))
        policies.append(policy.eval())
    return policies


def loss_of(policy, responses):
    batch = (responses.ids, responses.attention_mask, responses.response_mask)
    logprobs, values = policy(*batch, temperature=0.7)
    weights = torch.linspace(-1, 2, logprobs.numel()).view(logprobs.shape)
    return (weights * logprobs).sum() + (values**2).sum()


def assert_near(found, plain, exact, dtype):
    """In float32 the engines agree; in bfloat16 the fast one is about as near to float32 as the plain one."""
    for ours, theirs, right in zip(found, plain, exact, strict=True):
        if dtype == F32:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        else:
            assert (ours - right).norm() <= 1.5 * (theirs - right).norm() + 0.01 * right.norm()


def outside(logits, tokens, noise):
    """How far each random number lies outside the share of [0, 1) that the logits give its token."""
    shares = torch.softmax(logits.double(), -1)
    upper = shares.cumsum(-1).gather(1, tokens[:, None]).squeeze(1)
    lower = upper - shares.gather(1, tokens[:, None]).squeeze(1)
    return torch.maximum(lower - noise, noise - upper).clamp(min=0)


CASES = [
    (family, dtype, train_layers, lora, attention)
    for family in FAMILIES
    for dtype in (F32, BF16)
    for train_layers in (0, 1)
    for lora in (False, True)
    for attention in ("sdpa", "eager")
]


@pytest.mark.parametrize(("family", "dtype", "train_layers", "lora", "attention"), CASES)
def test_fast_equals_plain(family, dtype, train_layers, lora, attention, tmp_path):
    plain, fast = both(family, dtype, train_layers, lora, attention, tmp_path)
    exact, _ = both(family, F32, train_layers, lora, attention, tmp_path)
    responses = some_responses()
    batch = (responses.ids, responses.attention_mask, responses.response_mask)
    assert supports(fast.lm)

    for _ in range(2):  # the second time from cached activations
        wanted = responses.attention_mask
        states = [[p.engine.hidden_states(p.lm, *batch[:2], wanted)] for p in (fast, plain, exact)]
        assert_near(*states, dtype)
        assert_near(*(p(*batch, temperature=0.7) for p in (fast, plain, exact)), dtype)
        top = [p.engine.top_tokens(p.lm, responses, 5, 0.7) for p in (fast, plain, exact)]
        assert_near(*([logprobs] for logprobs, _ in top), dtype)
        assert dtype == BF16 or torch.equal(top[0][1], top[1][1])

    gradients = []
    for policy in (fast, plain, exact):
        loss_of(policy, responses).backward()
        gradients.append({n: p.grad.float() for n, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == gradients[2].keys()
    errors = [{name: (found[name] - right).norm() for name, right in gradients[2].items()} for found in gradients[:2]]
    for name, right in gradients[2].items():  # of a single parameter rounding errors scatter more than of all together
        rounding = 3 * errors[1][name] + 0.01 * right.norm() + 1e-3
        assert errors[0][name] <= (1e-4 * right.norm() + 1e-5 if dtype == F32 else rounding), name
    ours, theirs = (torch.stack(list(e.values())).norm() for e in errors)
    assert dtype == F32 or ours <= 1.5 * theirs

    noise = torch.from_numpy(np.random.default_rng(0).random((6, 8)))
    prompts = responses.ids[:, :4], responses.prompt_mask
    ours, theirs = (p.engine.generate(p.lm, *prompts, noise, [5], 63, 0.7) for p in (fast, plain))
    if dtype == F32:
        assert ours.tokens() == theirs.tokens()
        assert torch.equal(ours.ended, theirs.ended)
    mask = ours.response_mask
    logits, _ = plain.engine.response_logits(plain.lm, ours.ids, ours.attention_mask, mask, 0.7)
    off = outside(logits, ours.response_ids[mask], noise[:, : mask.shape[1]][mask])
    assert off.mean() <= (1e-6 if dtype == F32 else 5e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_frozen_reference_and_a_reward_model_use_the_policys_activations(family, dtype, tmp_path):
    responses = some_responses()
    found = []
    for engine in (FastEngine(dtype, tmp_path), PlainEngine(dtype), PlainEngine(F32)):
        policy, reference = make_family(family), make_family(family).requires_grad_(False)
        freeze_lower_layers(policy, 1)
        with torch.no_grad():
            for p in policy.parameters():
                if p.requires_grad:
                    p.mul_(1.5)
        torch.manual_seed(3)
        config = copy.deepcopy(policy.config)
        config.num_labels = 1
        classifier = AutoModelForSequenceClassification.from_config(config).eval()
        classifier.base_model.load_state_dict(reference.base_model.state_dict())
        classifier.requires_grad_(False)
        engine.prepare(policy)
        engine.prepare(reference)
        engine.prepare(classifier)
        share_weights(policy, reference)
        share_weights(reference, classifier)
        share_weights(policy, classifier)
        engine.prepare(policy, reference, classifier)
        scores = RewardModel(classifier, engine)(responses.ids, responses.attention_mask)
        found.append([*engine.compare(policy, reference, responses, 0.7), scores])
        if isinstance(engine, FastEngine):
            assert set(engine._caches) == {2}
    assert_near(*found, dtype)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_tool_of_torch_sees_every_gradient(family, dtype, tmp_path):
    """Those at p.grad, those of torch.autograd.grad, and those that clip_grad_norm_ and another optimizer use."""
    _, policy = both(family, dtype, 0, False, "sdpa", tmp_path)
    adamw(policy, 1e-3)  # rounds what learns
    responses = some_responses()
    parameters = dict(policy.named_parameters())
    by_grad = torch.autograd.grad(loss_of(policy, responses), list(parameters.values()), allow_unused=True)
    assert [name for name, gradient in zip(parameters, by_grad, strict=True) if gradient is None] == []
    loss_of(policy, responses).backward()
    for (name, parameter), gradient in zip(parameters.items(), by_grad, strict=True):
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == parameter.dtype, name
        torch.testing.assert_close(parameter.grad, gradient, msg=name)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1e-3)
    assert norm > 1
    assert torch.nn.utils.get_total_norm([p.grad.float() for p in policy.parameters()]) == pytest.approx(1e-3, rel=0.01)
    before = copy.deepcopy(policy.state_dict())
    torch.optim.AdamW(policy.parameters(), lr=0.1).step()
    assert [n for n, p in policy.named_parameters() if torch.equal(p, before[n])] == []


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["logprobs", "values", "both"])
def test_a_tied_embedding_has_the_same_dense_gradient_whatever_the_loss_is_of(which, dtype, tmp_path):
    plain, fast = both("gpt2", dtype, 0, False, "sdpa", tmp_path)
    responses = some_responses()
    batch = (responses.ids, responses.attention_mask, responses.response_mask)
    exact, ours = (
        torch.autograd.grad(sum(policy(*batch)[i].sum() for i in which), policy.lm.transformer.wte.weight)[0]
        for policy in (plain, fast)
    )
    assert ours.layout == torch.strided
    assert (ours - exact).norm() <= (1e-4 if dtype == F32 else 0.05) * exact.norm()


def test_distributed_data_parallel_sees_every_gradient(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/sync", rank=0, world_size=1)
    try:
        _, policy = both("gpt2", BF16, 0, False, "sdpa", tmp_path)
        adamw(policy, 1e-3)
        responses = some_responses()
        loss_of(policy, responses).backward()
        alone = {n: p.grad.clone() for n, p in policy.named_parameters()}
        policy.zero_grad()
        loss_of(DistributedDataParallel(policy), responses).backward()
        for name, parameter in policy.named_parameters():
            torch.testing.assert_close(parameter.grad, alone[name], msg=name)
    finally:
        torch.distributed.destroy_process_group()


def test_frozen_layers_run_once_for_a_text_that_is_read_again(tmp_path, monkeypatch):
    _, policy = both("llama", F32, 1, False, "sdpa", tmp_path)
    runs = []
    layer = policy.lm.model.layers[0]
    layer.register_forward_hook(lambda *_: runs.append(1))
    responses = some_responses()
    policy.engine.remember(
        policy.lm, [row[mask].tolist() for row, mask in zip(responses.ids, responses.attention_mask, strict=True)]
    )
    for _ in range(3):
        loss_of(policy, responses)
    assert len(runs) == 1


def test_activations_do_not_depend_on_the_order_of_the_batches(tmp_path):
    texts = [torch.randint(64, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(3, 150)]
    found = []
    for order in (range(147), reversed(range(147))):
        _, policy = both("gpt2", BF16, 1, False, "sdpa", tmp_path)
        policy.engine.remember(policy.lm, texts)
        states = {}
        for i in order:
            ids = torch.tensor([texts[i]])
            mask = torch.ones_like(ids, dtype=torch.bool)
            with torch.no_grad():
                states[i] = policy.engine.hidden_states(policy.lm, ids, mask, mask)
        found.append(states)
    assert all(torch.equal(found[0][i], found[1][i]) for i in range(147))


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_step_and_restore_leave_the_float32_model_that_plain_training_leaves(dtype, tmp_path):
    plain, fast = both("gpt2", dtype, 1, False, "sdpa", tmp_path)
    before = {n: p.detach().clone() for n, p in make_family("gpt2").named_parameters()}
    responses = some_responses()
    for policy in (plain, fast):
        optimizer = adamw(policy, 0.1, 0.1, eps=1.0)  # so that a gradient of zero is not scaled up
        for _ in range(3):
            loss_of(policy, responses).backward()
            step(optimizer, policy, 0.5, "here")
        policy.engine.restore(policy.lm, optimizer, lambda: make_family("gpt2"))
    assert fast.lm.config._attn_implementation == "sdpa"
    for (name, ours), exact in zip(fast.lm.named_parameters(), plain.lm.parameters(), strict=True):
        assert ours.dtype == F32
        moved, should = ours - before[name], exact - before[name]
        assert (moved - should).norm() <= (1e-3 if dtype == F32 else 0.05) * should.norm() + 1e-6, name


def test_a_model_of_another_family_or_attention_is_not_supported():
    lm = make_family("llama")
    assert supports(lm)
    lm.config._attn_implementation = "flex_attention"
    assert not supports(lm)
    lm.config._attn_implementation, lm.config.model_type = "sdpa", "mistral"
    assert not supports(lm)


def test_predicting_is_used_alike(tmp_path):
    """The states that predict a response are those one position before its tokens."""
    _, fast = both("gpt2", F32, 0, False, "sdpa", tmp_path)
    r = some_responses()
    _, states = fast.engine.logprobs(fast.lm, r.ids, r.attention_mask, r.response_mask)
    wanted = predicting(r.response_mask, r.ids.shape[1])
    torch.testing.assert_close(states, fast.engine.hidden_states(fast.lm, r.ids, r.attention_mask, wanted))
