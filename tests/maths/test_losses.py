import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.losses import (
    bradley_terry_loss,
    causal_lm_loss,
    label_loss,
    plackett_luce_loss,
    policy_loss,
    value_loss,
)

MASK = torch.tensor([[True, True], [True, False]])


def mean(loss):
    """The mean of a loss (sum, count)."""
    total, count = loss
    return total.item() / count.item()


def test_causal_lm_loss_weights_every_token_equally():
    half, quarter = [0.0, 0.0, -1e9, -1e9], [0.0, 0.0, 0.0, 0.0]
    logits = torch.tensor([[half, half, half], [quarter, quarter, quarter]])
    tokens = torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # Three tokens at ln 2 and one at ln 4; a mean of row means would give 1.5 ln 2.
    loss = causal_lm_loss(token_logprobs(logits, tokens), mask)
    assert mean(loss) == pytest.approx((3 * math.log(2) + math.log(4)) / 4)
    assert loss[1] == 4


def test_reward_model_losses_are_ln_2_at_zero_and_fall_with_the_gap():
    zero = torch.zeros(3)
    assert mean(bradley_terry_loss(zero, zero, torch.tensor([1.0, 0.5, 0.0]))) == pytest.approx(math.log(2))
    assert mean(label_loss(zero, torch.tensor([1.0, 0.0, 1.0]))) == pytest.approx(math.log(2))
    up, down = torch.tensor([2.0]), torch.tensor([-1.0])
    assert mean(bradley_terry_loss(up, down, torch.ones(1))) == pytest.approx(math.log(1 + math.exp(-3)), abs=1e-6)
    assert mean(bradley_terry_loss(down, up, torch.ones(1))) == pytest.approx(math.log(1 + math.exp(3)), abs=1e-6)


def test_a_tie_has_no_gradient_at_equal_scores():
    gap = torch.zeros(1, requires_grad=True)
    bradley_terry_loss(gap, torch.zeros(1), torch.tensor([0.5]))[0].backward()
    assert gap.grad.item() == 0.0


def test_policy_loss_by_hand():
    old = torch.zeros(2, 2)
    ratio = torch.tensor([[1.5, 0.5], [1.1, 9.0]])  # the 9.0 is outside the response
    advantages = torch.tensor([[1.0, -1.0], [2.0, 5.0]])
    # The statistics are sums over the three tokens, but for the largest ratio.
    loss, stats = policy_loss(ratio.log(), old, advantages, MASK, 0.2)
    # max(-1.5, -1.2) = -1.2; max(0.5, 0.8) = 0.8; max(-2.2, -2.2) = -2.2
    assert loss[1] == 3
    assert mean(loss) == pytest.approx((-1.2 + 0.8 - 2.2) / 3, abs=1e-6)
    assert stats["clip_fraction"].item() == 2
    assert stats["ratio_mean"].item() == pytest.approx(1.5 + 0.5 + 1.1, abs=1e-5)
    assert stats["ratio_max"].item() == pytest.approx(1.5)
    k3 = [1.5 - 1 - math.log(1.5), 0.5 - 1 - math.log(0.5), 1.1 - 1 - math.log(1.1)]
    assert stats["approx_kl"].item() == pytest.approx(sum(k3), abs=1e-5)


def test_clipping_stops_the_gradient_only_where_it_would_push_the_ratio_further_out():
    for advantage, ratio, moves in [(1.0, 1.5, False), (1.0, 0.5, True), (-1.0, 0.5, False), (-1.0, 1.5, True)]:
        logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
        mask = torch.ones(1, 1, dtype=torch.bool)
        policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), mask, 0.2)[0][0].backward()
        assert (logprobs.grad.abs().item() > 0) == moves


def test_value_loss_by_hand():
    old = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    values = torch.tensor([[1.0, 0.1], [1.1, 50.0]])
    returns = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    # 1.0 is clipped to 0.2: max(0, 0.64); 0.1 is not clipped: 0.81; nor is 1.1: 1.21; 50 is outside the response.
    assert mean(value_loss(values, old, returns, MASK, 0.2)) == pytest.approx(0.5 * (0.64 + 0.81 + 1.21) / 3)


def scores_of(rows):
    """(scores, present) of rankings of several lengths."""
    width = max(map(len, rows))
    scores = torch.tensor([[*row, *[9.0] * (width - len(row))] for row in rows])
    return scores, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


SCORES = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=4)
few = settings(max_examples=25, deadline=None)


@few
@given(SCORES)
def test_the_probabilities_of_all_orders_of_a_ranking_sum_to_one(row):
    orders = list(itertools.permutations(row))
    nats = [plackett_luce_loss(*scores_of([order]))[0].double() for order in orders]
    assert torch.exp(-torch.stack(nats)).sum().item() == pytest.approx(1, abs=1e-4)


@few
@given(SCORES)
def test_a_ranking_is_drawn_text_by_text_from_those_that_are_left(row):
    p = 1.0
    for i in range(len(row)):
        p *= 1 / sum(math.exp(other - row[i]) for other in row[i:])
    assert plackett_luce_loss(*scores_of([row]))[0].item() == pytest.approx(-math.log(p), rel=1e-4, abs=1e-4)


@few
@given(st.lists(st.tuples(st.floats(-20, 20, width=32), st.floats(-20, 20, width=32)), min_size=1, max_size=4))
def test_a_ranking_of_two_texts_is_bradley_terry(pairs):
    first, second = torch.tensor(pairs).unbind(1)
    total, count = plackett_luce_loss(*scores_of(pairs))
    assert total.item() == pytest.approx(bradley_terry_loss(first, second, torch.ones(len(pairs)))[0].item(), abs=1e-4)
    assert count == len(pairs)


@few
@given(SCORES, st.floats(-50, 50, width=32))
def test_only_differences_of_scores_count_in_a_ranking(row, shift):
    moved = [score + shift for score in row]
    assert plackett_luce_loss(*scores_of([row]))[0].item() == pytest.approx(
        plackett_luce_loss(*scores_of([moved]))[0].item(), abs=1e-3
    )


def test_rankings_of_several_lengths_are_independent_of_each_other_and_of_padding():
    rows = [(1.0, 2.0, 0.5, 3.0), (0.2, 0.1), (2.0, 0.0, 1.0)]
    scores, present = scores_of(rows)
    scores.requires_grad_(True)
    total, count = plackett_luce_loss(scores, present)
    assert count == 3
    assert total.item() == pytest.approx(sum(plackett_luce_loss(*scores_of([row]))[0].item() for row in rows), abs=1e-5)
    total.backward()
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[~present].any()
    assert scores.grad.sum(1).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_margin_asks_for_a_larger_difference_whichever_text_is_preferred():
    gap, zero, margin = torch.tensor([3.0]), torch.zeros(1), torch.tensor([2.0])
    up = bradley_terry_loss(gap, zero, torch.ones(1), margin)[0]
    assert up.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert bradley_terry_loss(zero, gap, torch.zeros(1), margin)[0] == up
    none = bradley_terry_loss(gap, zero, torch.tensor([0.3]), zero)[0]
    assert none.item() == pytest.approx(bradley_terry_loss(gap, zero, torch.tensor([0.3]))[0].item(), abs=1e-6)
