import math

import pytest
import torch

from plaudit.maths.kl import adapt_kl_coef, kl_full, kl_k1, kl_k3, measured_kl_coef

P, Q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
EXACT = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.6)  # 0.36004


def test_full_kl_is_the_sum_over_the_vocabulary_of_policy_against_reference():
    p, q = torch.tensor([[P]]).log(), torch.tensor([[Q]]).log()
    assert kl_full(p, q).item() == pytest.approx(EXACT, abs=1e-6)
    assert kl_full(p + 7.0, q - 3.0).item() == pytest.approx(
        EXACT, abs=1e-5
    )  # a constant added to logits has no effect
    assert kl_full(q, p).item() != pytest.approx(EXACT, abs=0.01)  # the other direction differs


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_estimators_are_unbiased_on_tokens_sampled_from_the_policy(estimator):
    p, q = torch.tensor([P]).log(), torch.tensor([Q]).log()
    expectation = (torch.tensor([P]) * estimator(p, q)).sum().item()
    assert expectation == pytest.approx(EXACT, abs=1e-6)


def test_k3_is_never_negative_where_k1_is():
    p, q = torch.tensor([P]).log(), torch.tensor([Q]).log()
    assert kl_k1(p, q).min() < 0
    assert kl_k3(p, q).min() >= 0


def test_kl_coef_follows_the_published_rule():
    # KL 7.2 is 20% above the target of 6, so that after one horizon of responses kl_coef is 1.2 times as large.
    assert adapt_kl_coef(0.1, 7.2, 6.0, n=10_000, horizon=10_000) == pytest.approx(0.12)
    assert adapt_kl_coef(0.1, 600.0, 6.0, n=10_000, horizon=10_000) == pytest.approx(0.12)  # clipped
    assert adapt_kl_coef(0.1, 5.4, 6.0, n=5_000, horizon=10_000) == pytest.approx(0.095)
    assert adapt_kl_coef(0.1, 6.0, 6.0, n=64, horizon=10_000) == pytest.approx(0.1)


@pytest.mark.parametrize("kl_coef", [0.15, 0.0, -0.3])
def test_the_measured_kl_coef_is_the_slope_of_the_penalty(kl_coef):
    kl = torch.tensor([0.0, 1.0, -0.5, 4.0])
    assert measured_kl_coef(kl_coef * kl + 7.0, kl) == {"kl_coef_measured": pytest.approx(kl_coef, abs=1e-6)}
    assert measured_kl_coef(kl, torch.full((4,), 2.0)) == {}
