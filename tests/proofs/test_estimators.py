"""Three estimators of KL(policy || reference), compared with the sum over every response."""

import numpy as np
import pytest
import torch
from proofs.enumerable import divergence, probabilities, tables
from proofs.table_lm import SCALE, TableLM, every_response, policy_of, reward_of, sampled

from plaudit.maths.kl import kl_k1, kl_k3
from plaudit.training.rollouts import score_rollout

POLICY, REFERENCE, LOGITS = tables()
EXACT = divergence(probabilities(POLICY), probabilities(REFERENCE))
ESTIMATORS = ("k1", "k3", "rao-blackwell")


def _scored(responses, policy, reference):
    raw = torch.zeros(len(responses.ids))
    return score_rollout(policy_of(policy), TableLM(reference), responses, raw, SCALE, 1.0)[0]


def _estimates(responses, policy=POLICY, reference=REFERENCE):
    """(rows,) estimates in nats a response: sums over its tokens."""
    rollout = _scored(responses, policy, reference)
    k1, k3 = (k(rollout.logprobs, rollout.ref_logprobs) for k in (kl_k1, kl_k3))
    return {name: x.double().sum(1).numpy() for name, x in zip(ESTIMATORS, (k1, k3, rollout.kl), strict=True)}


def test_the_library_gives_every_response_its_probability():
    rollout = _scored(every_response(), POLICY, REFERENCE)
    for logprobs, table in ((rollout.logprobs, POLICY), (rollout.ref_logprobs, REFERENCE)):
        assert logprobs.double().sum(1).exp().numpy() == pytest.approx(probabilities(table), abs=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_expectation_of_every_estimator_is_the_exact_kl(name):
    assert probabilities(POLICY) @ _estimates(every_response())[name] == pytest.approx(EXACT, abs=1e-5)


@pytest.fixture(scope="module")
def estimates():
    """Estimates from 5,000 sampled responses."""
    return _estimates(sampled(policy_of(POLICY), reward_of(LOGITS), 5000, "estimators")[0])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_over_sampled_responses_agrees_with_the_exact_kl(estimates, name):
    sample = estimates[name]
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    assert abs(sample.mean() - EXACT) < 4 * error
    assert error < 0.05 * EXACT


@pytest.mark.parametrize("seed", range(6))
def test_rao_blackwell_has_less_variance_than_k1_and_only_k1_is_ever_negative(seed):
    policy, reference, _ = tables(seed)
    p, estimates = probabilities(policy), _estimates(every_response(), policy, reference)
    variance = {name: p @ x**2 - (p @ x) ** 2 for name, x in estimates.items()}
    assert variance["rao-blackwell"] < variance["k1"]
    assert estimates["k1"].min() < 0
    assert estimates["k3"].min() >= 0
    assert estimates["rao-blackwell"].min() >= 0
