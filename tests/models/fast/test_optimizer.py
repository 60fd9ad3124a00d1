import copy

import pytest
import torch
from tiny import make_lm, some_responses

from plaudit.models.fast import optimizer as module
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.optimizer import SlicedAdamW
from plaudit.models.policy import Policy
from plaudit.training.checkpoint import Checkpoints
from plaudit.training.metrics import MetricsLog
from plaudit.training.optimizer import adamw, step

BF16 = torch.bfloat16
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}


@pytest.fixture(params=["fused", "fallback"])
def kernel(request, monkeypatch):
    """Every test that asks for it runs with torch's private fused kernel, and without."""
    if request.param == "fallback":
        monkeypatch.delattr(torch, "_fused_adamw_")
    return request.param


def some_parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(9, 11), (11,), (3, 1), (1,), (70, 2)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def groups_of(parameters):
    return [{"params": parameters[:3], "weight_decay": 0.1}, {"params": parameters[3:], "weight_decay": 0.0}]


def set_gradients(parameters, number):
    for place, p in enumerate(parameters):
        generator = torch.Generator().manual_seed(100 * number + place)
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def expected_after(parameters, steps, scale):
    """The parameters and the state that torch.optim.AdamW leaves, in float32, from gradients times `scale`."""
    parameters = [torch.nn.Parameter(p.detach().float().clone()) for p in parameters]
    optimizer = torch.optim.AdamW(groups_of(parameters), **SETTINGS, foreach=False, fused=False)
    for number, dtypes in enumerate(steps):
        set_gradients(parameters, number)
        for p, dtype in zip(parameters, dtypes, strict=True):
            p.grad = p.grad.to(dtype).float() * scale
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("size", [1, 37, 2**20])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_step_in_slices_is_the_step_of_torch(kernel, monkeypatch, size, scale):
    """Of several parameters in one slice, and of one parameter in several."""
    monkeypatch.setattr(module, "_SLICE_ON_CPU", size)
    parameters = some_parameters()
    expected, reference = expected_after(parameters, 4 * [5 * [torch.float32]], scale)
    optimizer = SlicedAdamW(groups_of(parameters), [], torch.float32, **SETTINGS)
    for number in range(4):
        set_gradients(parameters, number)
        optimizer.step(scale=scale)
    for ours, theirs in zip(parameters, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert optimizer.state[ours].keys() == reference.state[theirs].keys()
        for key, value in reference.state[theirs].items():
            torch.testing.assert_close(optimizer.state[ours][key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1, 37, 2**20])
def test_bfloat16_parameters_are_their_float32_weights_rounded(kernel, monkeypatch, size):
    """The float32 weights take the steps of torch; steps too small for bfloat16 add up in them."""
    monkeypatch.setattr(module, "_SLICE_ON_CPU", size)
    parameters = some_parameters()
    rounded = [parameters[0], parameters[4]]
    dtypes = [BF16 if any(p is r for r in rounded) else torch.float32 for p in parameters]
    expected, _ = expected_after(parameters, 4 * [dtypes], 0.3)
    optimizer = SlicedAdamW(groups_of(parameters), rounded, BF16, **SETTINGS)
    assert [p.dtype for p in parameters] == dtypes
    for number in range(4):
        set_gradients(parameters, number)
        optimizer.step(scale=0.3)
    for ours, theirs in zip(parameters, expected, strict=True):
        weights = optimizer.state[ours].get("master", ours)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, theirs, rtol=1e-5, atol=1e-6)
        assert torch.equal(ours.float(), weights.to(ours.dtype).float())


def test_the_gradient_norm_is_that_of_torch(monkeypatch):
    parameters = some_parameters()
    optimizer = SlicedAdamW(groups_of(parameters), [parameters[0]], BF16, **SETTINGS)
    assert optimizer.gradient_norm() == 0.0
    set_gradients(parameters, 0)
    parameters[1].grad = None
    expected = torch.nn.utils.get_total_norm([p.grad.float() for p in parameters if p.grad is not None])
    for size in (7, 2**20):
        monkeypatch.setattr(module, "_SLICE_ON_CPU", size)
        assert optimizer.gradient_norm() == pytest.approx(expected.item(), rel=1e-5)


def test_a_parameter_without_a_gradient_is_not_stepped(kernel):
    parameters = some_parameters()
    before = parameters[0].detach().clone()
    optimizer = SlicedAdamW(groups_of(parameters), [], torch.float32, **SETTINGS)
    set_gradients(parameters, 0)
    parameters[0].grad = None
    optimizer.step()
    assert torch.equal(parameters[0], before)
    assert optimizer.state[parameters[0]]["step"] == 0
    assert optimizer.state[parameters[1]]["step"] == 1


def rounded_policy(tmp_path, seed=0):
    engine = FastEngine(BF16, tmp_path)
    lm = make_lm(vocab=64, seed=seed).eval()
    engine.prepare(lm)
    policy = Policy(lm, engine)
    return policy, adamw(policy, 0.01, 0.1)


def take_steps(policy, optimizer, number):
    responses = some_responses()
    for _ in range(number):
        logprobs, values = policy(responses.ids, responses.attention_mask, responses.response_mask)
        (-logprobs.sum() + (values - 1).square().sum()).backward()
        step(optimizer, policy, 0.5, "test")


def test_training_goes_on_from_a_checkpoint_as_if_uninterrupted(kernel, tmp_path):
    """To the last bit: the float32 weights are part of the checkpoint."""
    policy, optimizer = rounded_policy(tmp_path)
    take_steps(policy, optimizer, 3)
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(3, policy, optimizer)
    take_steps(policy, optimizer, 2)
    resumed, fresh = rounded_policy(tmp_path, seed=3)
    assert Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).restore(resumed, fresh)["step"] == 3
    take_steps(resumed, fresh, 2)
    rounded = 0
    for (name, p), q in zip(policy.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name
        rounded += p.dtype == BF16
        assert optimizer.state[p].keys() == fresh.state[q].keys()
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, fresh.state[q][key]), (name, key)
    assert rounded == 10  # embeddings and four matrices in each of two layers


def test_a_norm_that_is_not_finite_changes_nothing(tmp_path):
    policy, optimizer = rounded_policy(tmp_path)
    take_steps(policy, optimizer, 1)
    before = copy.deepcopy(policy.state_dict())
    for p in policy.parameters():
        p.grad = torch.full_like(p, float("inf"))
    assert policy.engine.clip_and_step(optimizer, 1.0) == float("inf")
    assert all(torch.equal(p, before[name]) for name, p in policy.state_dict().items())
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}


@pytest.mark.parametrize("max_norm", [0.1, 1e9])
def test_gradients_are_clipped_together(tmp_path, max_norm):
    """After a first step the first moments are a tenth of the gradients that it used."""
    policy, optimizer = rounded_policy(tmp_path)
    responses = some_responses()
    policy(responses.ids, responses.attention_mask, responses.response_mask)[0].sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad.float() for p in policy.parameters() if p.grad is not None]).item()
    assert policy.engine.clip_and_step(optimizer, max_norm) == pytest.approx(norm, rel=1e-5)
    used = torch.nn.utils.get_total_norm([10 * state["exp_avg"] for state in optimizer.state.values()]).item()
    assert used == pytest.approx(min(norm, max_norm), rel=1e-4)
