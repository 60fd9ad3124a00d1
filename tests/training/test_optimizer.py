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
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0)
    norm = optim.step(layer(torch.tensor([[30.0]])).sum(), layer, sgd, max_grad_norm=2.0, where="here")
    assert norm == pytest.approx(30.0)
    assert layer.weight.item() == pytest.approx(-2.0, rel=1e-5)


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
