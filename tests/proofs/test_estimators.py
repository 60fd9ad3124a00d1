"""Three estimators of KL(policy || reference) against the sum over every response."""

import numpy as np
import pytest
import torch
from proofs.enumerable import CAP, RESPONSES, divergence, probabilities, tables
from proofs.table_lm import PROMPT, RUN, SCALE, TOKENIZER, TableLM, TableReward, sampled

from plaudit.algorithms.rollout import collect
from plaudit.batches import Below, Responses
from plaudit.maths.kl import kl_k1, kl_k3
from plaudit.models.heads import Policy
from plaudit.models.tokenizer import collate

POLICY, REFERENCE, LOGITS = tables()
EXACT = divergence(probabilities(POLICY), probabilities(REFERENCE))
ESTIMATORS = ("k1", "k3", "rao-blackwell")


def _every_response():
    """All 40 responses as one batch."""
    batch = collate([(PROMPT, list(y)) for y in RESPONSES], TOKENIZER.pad_id)
    ended, nothing = torch.ones(40, dtype=torch.bool), Below.nothing(batch.ids)
    return Responses(batch.ids, batch.attention_mask, batch.loss_mask[:, -CAP:], ended, nothing, nothing)


def _collected(responses, policy, reference):
    scores = torch.zeros(len(responses.ids))
    return collect(Policy(TableLM(policy)), TableLM(reference), scores, responses, SCALE, 1.0, RUN)


def _estimates(responses, policy=POLICY, reference=REFERENCE):
    """(rows,) estimates in nats a response, summed over what `collect` gives for each token."""
    rollout, full, _ = _collected(responses, policy, reference)
    k1, k3 = (k(rollout.logprobs, rollout.ref_logprobs) for k in (kl_k1, kl_k3))
    return {name: x.double().sum(1).numpy() for name, x in zip(ESTIMATORS, (k1, k3, full), strict=True)}


def test_the_library_gives_every_response_its_probability():
    rollout, _, _ = _collected(_every_response(), POLICY, REFERENCE)
    for logprobs, table in ((rollout.logprobs, POLICY), (rollout.ref_logprobs, REFERENCE)):
        assert logprobs.double().sum(1).exp().numpy() == pytest.approx(probabilities(table), abs=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_expectation_of_every_estimator_is_the_exact_kl(name):
    assert probabilities(POLICY) @ _estimates(_every_response())[name] == pytest.approx(EXACT, abs=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_over_sampled_responses_agrees_with_the_exact_kl(name):
    responses, _ = sampled(TableLM(POLICY), TableReward(LOGITS), 5000, "estimators")
    estimates = _estimates(responses)[name]
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    assert abs(estimates.mean() - EXACT) < 4 * error
    assert error < 0.05 * EXACT


@pytest.mark.parametrize("seed", range(6))
def test_rao_blackwell_is_of_no_higher_variance_than_k1_which_alone_is_ever_negative(seed):
    policy, reference, _ = tables(seed)
    p, estimates = probabilities(policy), _estimates(_every_response(), policy, reference)
    variance = {name: p @ x**2 - (p @ x) ** 2 for name, x in estimates.items()}
    assert variance["rao-blackwell"] < variance["k1"]
    assert estimates["k1"].min() < 0
    assert estimates["k3"].min() >= 0
    assert estimates["rao-blackwell"].min() >= 0
