import math

import pytest
import torch

from plaudit.maths.masked import explained_variance, masked_mean, masked_sum, masked_variance, whiten

MASK = torch.tensor([[True, True, False], [True, False, False]])
X = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, 100.0]])  # 1, 2, 6 under the mask


def test_only_masked_values_count_even_beside_nan_and_infinity():
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0
    assert masked_variance(X, MASK).item() == pytest.approx((4 + 1 + 9) / 3)


def test_mean_weighs_tokens_not_rows():
    # A mean of row means would give (1.5 + 6) / 2 = 3.75.
    assert masked_mean(X, MASK).item() == 3.0


def test_empty_mask_is_refused():
    with pytest.raises(ValueError, match="selects nothing"):
        masked_mean(X, torch.zeros_like(MASK))


def test_whitened_values_have_mean_zero_and_variance_one_and_keep_their_order():
    x = torch.tensor([[1.0, 2.0, 50.0], [6.0, -7.0, 0.0]])
    w = whiten(x, MASK)
    kept = w[MASK]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6)
    assert (kept**2).mean().item() == pytest.approx(1, abs=1e-5)
    spread = math.sqrt(14 / 3)
    torch.testing.assert_close(kept, torch.tensor([-2 / spread, -1 / spread, 3 / spread]), rtol=1e-5, atol=1e-6)
    assert (w[~MASK] == 0).all()


def test_explained_variance_of_a_perfect_and_of_a_constant_critic():
    returns = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
    assert explained_variance(returns, returns, MASK).item() == 1.0
    assert explained_variance(torch.full_like(returns, 5.0), returns, MASK).item() == 0.0
