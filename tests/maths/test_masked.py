import math

import pytest
import torch

from plaudit.maths.masked import (
    explained_variance,
    masked_correlation,
    masked_mean,
    masked_sum,
    masked_variance,
    unflatten,
    whiten,
)

MASK = torch.tensor([[True, True, False], [True, False, False]])
X = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, 100.0]])  # 1, 2, 6 under the mask


def test_values_outside_the_mask_have_no_effect_even_nan_and_infinity():
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0  # a mean of row means would be (1.5 + 6) / 2
    assert masked_variance(X, MASK).item() == pytest.approx((4 + 1 + 9) / 3)


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="False everywhere"):
        masked_mean(X, torch.zeros_like(MASK))


def test_whitening_by_hand():
    x = torch.tensor([[1.0, 2.0, 50.0], [6.0, -7.0, 0.0]])
    std = math.sqrt(14 / 3)
    expected = torch.tensor([[-2 / std, -1 / std, 0.0], [3 / std, 0.0, 0.0]])
    torch.testing.assert_close(whiten(x, MASK), expected, rtol=1e-5, atol=1e-6)


def test_unflatten_is_the_inverse_of_selection():
    assert unflatten(X[MASK], MASK).tolist() == [[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]


def test_explained_variance_of_perfect_and_of_constant_values():
    returns = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
    assert explained_variance(returns, returns, MASK).item() == 1.0
    assert explained_variance(torch.full_like(returns, 5.0), returns, MASK).item() == 0.0


def test_correlation_is_that_of_the_values_under_the_mask_whatever_their_scale():
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 5, 7, generator=draw)
    y, mask = 0.5 * x + noise, torch.rand(5, 7, generator=draw) < 0.6
    expected = torch.corrcoef(torch.stack([x[mask], y[mask]]))[0, 1].item()
    assert masked_correlation(3 * x - 1, 1e-2 * y + 4, mask).item() == pytest.approx(expected, abs=1e-4)
    assert masked_correlation(x, -x, mask).item() == pytest.approx(-1, abs=1e-5)
    assert masked_correlation(torch.zeros(5, 7), y, mask).item() == 0
