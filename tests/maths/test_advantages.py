import math

import pytest
import torch

from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.kl import kl_k1

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_the_last_response_token_gets_the_score_and_every_token_the_kl_penalty():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, 77.0]])
    ref = torch.tensor([[-2.0, -2.0, -1.0], [-3.0, -0.5, -99.0]])
    rewards = token_rewards(torch.tensor([10.0, 20.0]), kl_k1(logprobs, ref), MASK, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, 0.0, 11.0], [-1.0, 20.25, 0.0]]


def double_sum(rewards, values, length, gamma, lam):
    """A_t of one row by its definition: the sum over k >= t of (gamma lam)^(k - t) delta_k."""
    advantages = []
    for t in range(length):
        total = 0.0
        for k in range(t, length):
            following = values[k + 1] if k + 1 < length else 0.0
            total += (gamma * lam) ** (k - t) * (rewards[k] + gamma * following - values[k])
        advantages.append(total)
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_equals_the_double_sum_on_ragged_rows(gamma, lam):
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(5, 7, generator=g), torch.randn(5, 7, generator=g)
    lengths = [7, 1, 3, 6, 2]
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, n in enumerate(lengths):
        expected = double_sum(rewards[row].tolist(), values[row].tolist(), n, gamma, lam)
        assert advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-5)
        targets = [a + v for a, v in zip(expected, values[row, :n].tolist(), strict=True)]
        assert returns[row, :n].tolist() == pytest.approx(targets, abs=1e-5)
        assert (advantages[row, n:] == 0).all()
        assert (returns[row, n:] == 0).all()


def test_lam_one_is_monte_carlo_and_lam_zero_is_one_step():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    values = torch.tensor([[10.0, 20.0, 30.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert gae(rewards, values, mask, 1.0, 1.0)[0].tolist() == [[7 - 10.0, 6 - 20.0, 4 - 30.0]]
    assert gae(rewards, values, mask, 1.0, 0.0)[0].tolist() == [[1 + 20 - 10.0, 2 + 30 - 20.0, 4 - 30.0]]


def test_values_outside_the_mask_have_no_effect():
    rewards, values = torch.ones(2, 3), torch.ones(2, 3)
    dirty_r, dirty_v = rewards.clone(), values.clone()
    dirty_r[1, 2], dirty_v[1, 2] = math.nan, math.inf
    clean, dirty = gae(rewards, values, MASK, 1.0, 0.95), gae(dirty_r, dirty_v, MASK, 1.0, 0.95)
    for a, b in zip(clean, dirty, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
