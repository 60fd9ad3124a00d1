"""The optimum of RLHF is known: reference x exp(score / beta), normalised. Training must converge to it."""

import dataclasses

import numpy as np
import pytest
import torch
from proofs.enumerable import (
    CAP,
    RESPONSES,
    divergence,
    objective,
    occupancy,
    optimum,
    probabilities,
    scores_of,
    table_of,
    tables,
)
from proofs.table_lm import SCALE, TableLM, every_response, gradient_of, policy_of, reward_of, sampled

from plaudit import rng
from plaudit.algorithms import grpo, ppo, reinforce, rloo
from plaudit.training.optimizer import adamw, set_lr, update
from plaudit.training.rollouts import score_rollout

ITERATIONS, ROWS = 80, 512
PPO = ppo.Config(
    batch_size=ROWS, minibatch_size=256, epochs=2, temperature=1.0, lr=0.1, lam=0.95, value_coef=1.0, kl_stop=1.0
)
N = len(RESPONSES)
WHOLE = {"temperature": 1.0, "max_new_tokens": CAP}
WITHOUT_CRITIC = {  # all responses are one group
    "reinforce": (reinforce.OBJECTIVE, reinforce.Config(**WHOLE)),
    "rloo": (rloo.OBJECTIVE, rloo.Config(**WHOLE, group_size=N)),
    "grpo": (grpo.OBJECTIVE, grpo.Config(**WHOLE, group_size=N, scale_by="none")),
}


def _trained(reference, logits, beta):
    """The table that PPO makes of the reference's, from sampled responses."""
    policy, frozen, reward = policy_of(reference), TableLM(reference), reward_of(logits)
    optimizer = adamw(policy, PPO.lr, eps=1e-5)
    for iteration in range(ITERATIONS):
        responses, raw = sampled(policy, reward, ROWS, "optimum", iteration)
        rollout, states = score_rollout(policy, frozen, responses, raw, SCALE, 1.0)
        batch = ppo.OBJECTIVE.batch(policy, rollout, states, beta, PPO)
        set_lr(optimizer, PPO.lr * (1 - iteration / ITERATIONS))
        update(
            policy,
            optimizer,
            batch,
            loss=lambda minibatch: ppo.OBJECTIVE.loss(policy, minibatch, PPO),
            count=lambda minibatch: ppo.OBJECTIVE.count(minibatch, PPO),
            settings=PPO,
            orders=[rng.permutation(ROWS, 0, "optimum", PPO.epochs * iteration + e) for e in range(PPO.epochs)],
            where="test",
        )
    return policy.lm.table


def _expected_batch(policy, frozen, reward, objective, settings, beta):
    """All responses as one group, each as often as the policy gives it.

    So the gradient is the expected one. The mean of the group, over all responses alike, is one number for all of them,
    which as a baseline changes no expectation.
    """
    responses = every_response()
    rollout, states = score_rollout(policy, frozen, responses, reward(responses), SCALE, 1.0)
    batch = objective.batch(policy, rollout, states, beta, settings)
    weights = torch.from_numpy(probabilities(policy.lm.table)).float()
    weights = weights.view(N, *[1] * (batch.advantages.ndim - 1))
    return dataclasses.replace(batch, advantages=batch.advantages * weights)


def _natural_step(table, gradient):
    """The natural gradient: each entry divided by the probability that a response has this token in this state."""
    mass = occupancy(probabilities(table))
    return np.divide(gradient, mass, out=np.zeros_like(table), where=mass > 0)


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 3.0])
def test_the_enumerated_optimum_is_an_optimum(beta):
    """Every other policy is worse, and by exactly beta times its KL from the optimum."""
    table, reference, logits = tables()
    scores = scores_of(logits)
    best, q = optimum(reference, scores, beta), probabilities(reference)
    highest = best @ scores - beta * divergence(best, q)
    for worse in (table, reference, 0.3 * table):
        gap = highest - objective(worse, reference, scores, beta)
        assert gap == pytest.approx(beta * divergence(probabilities(worse), best), abs=1e-9)
        assert gap > 0


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_training_converges_to_the_known_optimum(beta):
    _, reference, logits = tables()
    best = optimum(reference, scores_of(logits), beta)
    p, q = probabilities(_trained(reference, logits, beta)), probabilities(reference)
    assert divergence(q, best) > 0.03  # far from it at first: 4.9, 0.33 and 0.033 nats
    assert divergence(p, best) < 5e-4
    # Sampling noise: the last steps see 512 responses, and a learning rate of a hundredth of the first.
    assert abs(p - best).max() < 4e-3


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_without_a_critic_three_natural_steps_reach_the_optimum(name, beta):
    """A natural step of size 1 / beta makes the last token optimal, then the one before: there are three.

    It does so only if the gradient is that of E[score] - beta KL, for every policy on the way.
    """
    _, reference, logits = tables()
    best = optimum(reference, scores_of(logits), beta)
    (objective, settings), table = WITHOUT_CRITIC[name], reference
    frozen, reward = TableLM(reference), reward_of(logits)
    # A group of n whose baseline leaves a response out has n / (n - 1) of the advantages here.
    factor = 1.0 if name == "grpo" else (N - 1) / N
    distances = []
    for _ in range(3):
        policy = policy_of(table, value_head=False)
        batch = _expected_batch(policy, frozen, reward, objective, settings, beta)
        (loss, _), _ = objective.loss(policy, batch, settings)
        table = table + _natural_step(table, gradient_of(policy, -factor * loss)) / beta
        distances.append(divergence(probabilities(table), best))
    assert distances[0] > 1e-3  # 20, 3.7, 0.11 and 0.0015 nats
    assert distances[2] < 1e-10
    assert abs(probabilities(table) - best).max() < 1e-6


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", [*WITHOUT_CRITIC, "grpo as published"])
def test_at_the_optimum_no_response_teaches_anything(name, beta):
    """There the reward of each response is the same number, beta log Z, so no sample has noise.

    The deviation of equal rewards, which is rounding, divides nothing.
    """
    _, reference, logits = tables()
    objective, settings = WITHOUT_CRITIC[name.split()[0]]
    if name == "grpo as published":
        settings = dataclasses.replace(settings, scale_by="std", normalise="sequence")
    advantages = {}
    for of, table in (("reference", reference), ("optimum", table_of(optimum(reference, scores_of(logits), beta)))):
        policy, responses = policy_of(table, value_head=False), every_response()
        raw = reward_of(logits)(responses)
        rollout, states = score_rollout(policy, TableLM(reference), responses, raw, SCALE, 1.0)
        advantages[of] = objective.batch(policy, rollout, states, beta, settings).advantages.abs().max()
    assert advantages["reference"] > 0.5
    assert advantages["optimum"] < 1e-5
