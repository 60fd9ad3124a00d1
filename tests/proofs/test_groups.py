"""Gradients of the algorithms that compare the responses to one prompt, and of KL in the loss, by enumeration."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from proofs.enumerable import (
    CAP,
    RESPONSES,
    VOCABULARY,
    gradient,
    per_response,
    probabilities,
    rewards,
    scores_of,
    state_of,
    tables,
)
from proofs.table_lm import SCALE, TableLM, every_response, gradient_of, policy_of, reward_of

from plaudit.algorithms.grpo import Config as GRPOConfig
from plaudit.algorithms.grpo import GRPOBatch, divisor, grpo_batch, grpo_loss
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_loss
from plaudit.algorithms.rloo import rloo_batch
from plaudit.batches import number_of_rows, select_rows
from plaudit.training.rollouts import score_rollout

POLICY, REFERENCE, LOGITS = tables()
BETA = 0.7
GRPO = GRPOConfig(group_size=2, temperature=1.0, max_new_tokens=CAP, normalise="constant", scale_by="none")


def scored(policy, kl_estimator="k1", logits=LOGITS):
    responses = every_response()
    raw = reward_of(logits)(responses)
    return score_rollout(policy, TableLM(REFERENCE), responses, raw, SCALE, 1.0, kl_estimator)[0]


def mean_advantages(rollout, batch_of, count_of=number_of_rows):
    """The advantages of each response summed over all 40 x 40 groups of two, each times its probability.

    Each group is a batch of its own, whose loss is divided by its count.
    """
    p = torch.from_numpy(probabilities(POLICY))
    totals = 0.0
    for pair in itertools.product(range(len(RESPONSES)), repeat=2):
        rows = torch.tensor(pair)
        batch = batch_of(select_rows(rollout, rows))
        share = p[rows].prod() / count_of(batch) * batch.advantages.double()
        totals += torch.zeros(len(RESPONSES), *share.shape[1:]).double().index_add_(0, rows, share)
    return totals.float()


def test_the_expected_gradient_of_rloo_is_the_exact_one():
    policy = policy_of(POLICY, value_head=False)
    rollout = scored(policy)
    advantages = mean_advantages(rollout, lambda rows: rloo_batch(rows, BETA, 2))
    (loss, _), _ = reinforce_loss(policy, ReinforceBatch(rollout, advantages), 1.0)
    exact = gradient(POLICY, REFERENCE, scores_of(LOGITS), BETA)
    assert gradient_of(policy, -loss) == pytest.approx(exact, abs=1e-6)


def test_the_expected_gradient_of_grpo_is_the_exact_one_but_for_a_factor():
    """Its baseline includes the response itself, which makes the gradient smaller by (n - 1) / n."""
    policy = policy_of(POLICY, value_head=False)
    rollout = scored(policy)
    advantages = mean_advantages(rollout, lambda rows: grpo_batch(rows, BETA, GRPO))
    (loss, count), _ = grpo_loss(policy, GRPOBatch(rollout, advantages), GRPO)
    exact = gradient(POLICY, REFERENCE, scores_of(LOGITS), BETA)
    assert count == len(RESPONSES)
    assert gradient_of(policy, -loss) == pytest.approx(exact / 2 / CAP, abs=1e-6)


def of_pair(beta, logits, scale_by, normalise):
    """(40, 40) what the first response of a pair learns from the second: its advantage times its share of the loss."""
    scores = rewards(POLICY, REFERENCE, scores_of(logits), beta)
    gap = scores[:, None] - scores
    gap[abs(gap) < 1e-6] = 0
    # A pair differs from its mean by half its gap, and has a deviation of the gap over the root of 2.
    advantage = np.sign(gap) / math.sqrt(2) if scale_by == "std" else gap / 2
    length = np.array([len(y) for y in RESPONSES])[:, None]
    return advantage / {"token": length + length.T, "sequence": 2 * length, "constant": 2 * CAP}[normalise]


@pytest.mark.parametrize(
    ("scale_by", "normalise", "ties"),
    [*itertools.product(("std", "none"), ("token", "sequence", "constant"), (False,)), ("std", "token", True)],
)
def test_the_expected_gradient_of_grpo_has_a_closed_form(scale_by, normalise, ties):
    """With pairs, for every setting; the last case is that of many equal rewards."""
    assert (GRPOConfig().scale_by, GRPOConfig().normalise) == ("std", "token")
    beta, logits = (0.0, {y: float(round(x)) for y, x in LOGITS.items()}) if ties else (BETA, LOGITS)
    settings = dataclasses.replace(GRPO, scale_by=scale_by, normalise=normalise)
    policy = policy_of(POLICY, value_head=False)
    rollout = scored(policy, logits=logits)
    advantages = mean_advantages(
        rollout, lambda rows: grpo_batch(rows, beta, settings), lambda batch: divisor(batch, settings)
    )
    (loss, _), _ = grpo_loss(policy, GRPOBatch(rollout, advantages), settings)
    p, learned = probabilities(POLICY), of_pair(beta, logits, scale_by, normalise)
    assert (learned == 0).sum() > 40 if ties else (learned == 0).sum() == 40  # a response and itself
    weights = 2 * p * (learned @ p)  # a response is the first or the second of its pair
    assert gradient_of(policy, -loss) == pytest.approx(per_response(POLICY, weights), abs=1e-6)
    assert abs(per_response(POLICY, weights)).max() > 0.02


def test_divided_by_the_deviation_a_pair_raises_the_share_of_responses_that_are_worse():
    """Of the responses of a policy that stays, less the share of those that are better: by how much does not count."""
    p = probabilities(POLICY)
    scores = rewards(POLICY, REFERENCE, scores_of(LOGITS), BETA)
    wins = np.sign(scores[:, None] - scores) @ p
    found = per_response(POLICY, 2 * p * (of_pair(BETA, LOGITS, "std", "constant") @ p))
    h = 1e-6
    for place in np.ndindex(*POLICY.shape):
        step = np.zeros_like(POLICY)
        step[place] = h
        up, down = (probabilities(POLICY + sign * step) @ wins for sign in (1, -1))
        assert (up - down) / (2 * h) / math.sqrt(2) / CAP == pytest.approx(found[place], abs=1e-9)


def test_a_mean_over_each_response_is_another_objective():
    """With normalise = sequence a long response counts as much as a short one, so a token of it counts less."""
    policy = policy_of(POLICY, value_head=False)
    rollout = scored(policy)
    settings = dataclasses.replace(GRPO, normalise="sequence")
    advantages = mean_advantages(rollout, lambda rows: grpo_batch(rows, BETA, settings))
    (loss, _), _ = grpo_loss(policy, GRPOBatch(rollout, advantages), settings)
    found, exact = gradient_of(policy, -loss), gradient(POLICY, REFERENCE, scores_of(LOGITS), BETA)
    cosine = (found * exact).sum() / np.linalg.norm(found) / np.linalg.norm(exact)
    assert cosine < 0.99


def per_state(table, of_state):
    """(STATES, VOCABULARY) sum over the states of their probability times a gradient with respect to their logits."""
    out, p = np.zeros_like(table), probabilities(table)
    for y, weight in zip(RESPONSES, p, strict=True):
        for t in range(len(y)):
            state = state_of(y[:t])
            out[state] += weight * of_state(softmax(table[state]), softmax(REFERENCE[state]))
    return out


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gradient_of_kl(p, q):
    """Of sum p log(p / q) with respect to the logits of p."""
    return p * (np.log(p / q) - (p * np.log(p / q)).sum())


EXPECTED = {
    "k1": lambda p, q: np.zeros(VOCABULARY),
    "k2": gradient_of_kl,
    "k3": lambda p, q: p - q,  # the gradient of KL(reference || policy)
    "full": gradient_of_kl,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_gradient_of_each_estimate_of_kl_is(name):
    """None is that of KL over whole responses, which has a term for the states that the tokens lead to."""
    policy = policy_of(POLICY, value_head=False)
    responses = every_response()
    found = policy.engine.compare(policy.lm, TableLM(REFERENCE), responses, 1.0, gradient=True)
    rows = responses.response_mask.nonzero()[:, 0]
    weights = torch.from_numpy(probabilities(POLICY)).float()[rows]
    kl = gradient_of(policy, (weights * found.estimate(name)).sum())
    assert kl == pytest.approx(per_state(POLICY, EXPECTED[name]), abs=1e-6)
    nothing = dict.fromkeys(RESPONSES, 0.0)
    whole = -gradient(POLICY, REFERENCE, scores_of(nothing) * 0, 1.0)
    assert np.linalg.norm(kl - whole) > 0.1 * np.linalg.norm(whole)


def test_the_gradient_of_the_entropy_bonus_is_that_of_the_entropy_of_each_state():
    policy = policy_of(POLICY, value_head=False)
    responses = every_response()
    found = policy.engine.compare(policy.lm, TableLM(REFERENCE), responses, 1.0, gradient=True)
    rows = responses.response_mask.nonzero()[:, 0]
    weights = torch.from_numpy(probabilities(POLICY)).float()[rows]
    entropy = gradient_of(policy, (weights * found.entropy).sum())
    uniform = np.full(VOCABULARY, 1 / VOCABULARY)
    assert entropy == pytest.approx(-per_state(POLICY, lambda p, q: gradient_of_kl(p, uniform)), abs=1e-6)


def test_the_penalty_in_the_reward_is_unbiased_with_k1_alone():
    policy = policy_of(POLICY, value_head=False)
    exact = gradient(POLICY, REFERENCE, scores_of(LOGITS), BETA)
    for name in ("k1", "k2", "k3", "full"):
        rollout = scored(policy, name)
        advantages = mean_advantages(rollout, lambda rows: rloo_batch(rows, BETA, 2))
        (loss, _), _ = reinforce_loss(policy, ReinforceBatch(rollout, advantages), 1.0)
        off = np.linalg.norm(gradient_of(policy, -loss) - exact) / np.linalg.norm(exact)
        assert (off < 1e-5) == (name == "k1"), (name, off)
