import copy
import math

import pytest
import torch

from plaudit.errors import TrainingError
from plaudit.training import optimizer as optim


def test_schedules_rise_fall_and_reach_their_peak_once():
    shares = [optim.warmup_then_linear(s, 10, 0.2) for s in range(10)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[2:] == pytest.approx([8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])


def test_vectors_are_not_decayed():
    layer = torch.nn.Linear(2, 2)
    optimizer = optim.adamw(layer, lr=0.1, weight_decay=0.5)
    with torch.no_grad():
        layer.weight.fill_(1.0), layer.bias.fill_(1.0)
    (layer(torch.zeros(1, 2)).sum() * 0).backward()
    optimizer.step()
    assert layer.bias.tolist() == [1.0, 1.0]
    assert layer.weight.flatten().tolist() == pytest.approx([0.95] * 4)


def test_gradients_are_clipped_and_the_norm_before_is_reported():
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    optimizer = optim.adamw(layer, lr=1.0)
    norm = optim.step(layer(torch.tensor([[30.0]])).sum(), layer, optimizer, max_grad_norm=2.0, where="here")
    assert norm == pytest.approx(30.0)
    assert optimizer.state[layer.weight]["exp_avg"].item() == pytest.approx(0.1 * 2.0, rel=1e-5)


@pytest.mark.parametrize("at_once", [7, 100, 2**20])
def test_a_step_in_slices_is_the_step_of_torch(monkeypatch, at_once):
    """Bit for bit up to what clipping's two ways of dividing round; and two parameters may share a slice, or not."""
    monkeypatch.setattr(optim, "_AT_ONCE_ON_CPU", at_once)
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(9, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3), torch.nn.Linear(3, 1))
    theirs, x = copy.deepcopy(ours), torch.randn(5, 9)
    optimizer, other = (optim.adamw(model, 0.01, weight_decay=0.1) for model in (ours, theirs))
    for _ in range(3):
        norm = optim.step(ours(x).square().sum(), ours, optimizer, 0.5, "here")
        other.zero_grad()
        theirs(x).square().sum().backward()
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item(), rel=1e-5)
        other.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        for key, value in other.state[q].items():
            torch.testing.assert_close(optimizer.state[p][key], value, rtol=1e-5, atol=1e-9)
        assert p.grad is None


def test_what_gets_no_gradient_is_not_stepped():
    model = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)])
    optimizer, before = optim.adamw(model, 0.1, weight_decay=0.5), model[1].weight.clone()
    model[1](torch.ones(2)).sum().backward()  # a gradient that is none of the step's
    optim.step(model[0](torch.ones(2)).sum(), model, optimizer, 1.0, "here")
    assert torch.equal(model[1].weight, before)
    assert optimizer.state[model[1].weight]["step"] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_moves_nothing(bad):
    layer = torch.nn.Linear(1, 1)
    before = layer.weight.item()
    optimizer = optim.adamw(layer, lr=0.1)
    with pytest.raises(TrainingError, match="sft step 3: the loss"):
        optim.step(layer(torch.tensor([[bad]])).sum(), layer, optimizer, 1.0, "sft step 3")
    assert layer.weight.item() == before


def test_a_gradient_that_is_not_finite_moves_nothing():
    weight = torch.nn.Parameter(torch.zeros(1))
    module = torch.nn.Module()
    module.weight = weight
    optimizer = optim.adamw(module, lr=0.1)
    with pytest.raises(TrainingError, match="gradient norm"):
        optim.step(weight.sqrt().sum(), module, optimizer, 1.0, "here")  # sqrt has slope infinity at 0
    assert weight.item() == 0.0
