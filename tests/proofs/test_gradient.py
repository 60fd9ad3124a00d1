"""The gradients of the algorithms are, on average, the gradient of E[score] - beta KL, known by enumeration."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from proofs.enumerable import (
    RESPONSES,
    STATES,
    gradient,
    objective,
    probabilities,
    scores_of,
    state_of,
    tables,
)
from proofs.table_lm import SCALE, TOKENIZER, TableLM, every_response, gradient_of, policy_of, reward_of, sampled

from plaudit.algorithms.ppo import OBJECTIVE as PPO
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_advantages, reinforce_loss
from plaudit.batches import join_rollouts, select_rows
from plaudit.training.rollouts import score_rollout

CASES = [(0.0, 1.0), (0.7, 0.0), (0.7, 1.0)]  # beta, and what the scores are multiplied by


def test_the_enumeration_is_complete_and_its_gradient_is_that_of_finite_differences():
    policy, reference, logits = tables()
    assert len(RESPONSES) == len(set(RESPONSES)) == 1 + 3 + 9 * 4
    assert probabilities(policy).sum() == pytest.approx(1, abs=1e-12)
    scores, beta, h = scores_of(logits), 0.7, 1e-6
    exact = gradient(policy, reference, scores, beta)
    for place in np.ndindex(*policy.shape):
        up, down = policy.copy(), policy.copy()
        up[place] += h
        down[place] -= h
        slope = (objective(up, reference, scores, beta) - objective(down, reference, scores, beta)) / (2 * h)
        assert slope == pytest.approx(exact[place], abs=1e-9)


def _with_critic(table, values):
    """A policy whose value head gives these values (STATES,)."""
    policy = policy_of(table)
    with torch.no_grad():
        policy.value_head.weight.copy_(torch.from_numpy(values)[None])
    return policy


def _token_rewards(table, reference, scores, beta):
    """Of every response, the reward of each token: the penalty on its log-ratio, and the score at the last one."""
    found = []
    for y, score in zip(RESPONSES, scores, strict=True):
        rows = [(table[state_of(y[:t])], reference[state_of(y[:t])], y[t]) for t in range(len(y))]
        each = [-beta * (p[k] - np.log(np.exp(p).sum()) - q[k] + np.log(np.exp(q).sum())) for p, q, k in rows]
        found.append(np.array([*each[:-1], each[-1] + score]))
    return found


def _exact_values(table, of_tokens):
    """(STATES,) expected reward from each state on."""
    total, mass = np.zeros(STATES), np.zeros(STATES)
    for y, p, rewards in zip(RESPONSES, probabilities(table), of_tokens, strict=True):
        for t in range(len(y)):
            total[state_of(y[:t])] += p * rewards[t:].sum()
            mass[state_of(y[:t])] += p
    return np.divide(total, mass, out=np.zeros(STATES), where=mass > 0)


def _raw_advantages(of_tokens, values, lam):
    """Advantages of all tokens of all responses, in a row: sums of discounted temporal differences."""
    found = []
    for y, rewards in zip(RESPONSES, of_tokens, strict=True):
        v = np.array([*(values[state_of(y[:t])] for t in range(len(y))), 0.0])
        deltas = rewards + v[1:] - v[:-1]
        found += [sum(lam ** (u - t) * deltas[u] for u in range(t, len(y))) for t in range(len(y))]
    return np.array(found)


CRITICS = {  # what its values are, and a lambda with which GAE has no bias
    "none": (lambda exact: np.zeros(STATES), 1.0),
    "wrong": (lambda exact: 0.5 * np.random.default_rng(0).standard_normal(STATES), 1.0),
    "exact": (lambda exact: exact, PPOConfig().lam),
}


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize(("beta", "scored"), CASES)
def test_the_expected_gradient_of_ppo_is_the_exact_one_but_for_whitening(beta, scored, critic):
    """All responses are one rollout, whose advantages are whitened together; then each has its probability.

    Whitening subtracts one number from all advantages, which changes no expectation, and divides by their deviation.
    """
    table, reference, logits = tables()
    logits = {y: scored * x for y, x in logits.items()}
    of_tokens = _token_rewards(table, reference, scores_of(logits), beta)
    make_values, lam = CRITICS[critic]
    values, settings = make_values(_exact_values(table, of_tokens)), PPOConfig(temperature=1.0, lam=lam)
    policy, responses = _with_critic(table, values), every_response()
    rollout, states = score_rollout(policy, TableLM(reference), responses, reward_of(logits)(responses), SCALE, 1.0)
    batch = PPO.batch(policy, rollout, states, beta, settings)
    weights = torch.from_numpy(probabilities(table)).float()[:, None]
    (loss, count), _ = PPO.loss(policy, dataclasses.replace(batch, advantages=batch.advantages * weights), settings)
    exact = gradient(table, reference, scores_of(logits), beta) / _raw_advantages(of_tokens, values, lam).std()
    assert count == PPO.count(batch, settings) == sum(map(len, RESPONSES))
    assert gradient_of(policy, -loss) == pytest.approx(exact, abs=1e-6)
    assert abs(exact).max() > 0.05


@pytest.mark.parametrize("critic", ["none", "wrong"])
@pytest.mark.parametrize(("beta", "scored"), CASES)
def test_the_mean_sampled_gradient_of_ppo_is_the_exact_one(beta, scored, critic):
    """10,000 responses, whose advantages are whitened together, and the gradients of forty parts of them."""
    table, reference, logits = tables()
    logits = {y: scored * x for y, x in logits.items()}
    make_values, lam = CRITICS[critic]
    policy, settings = _with_critic(table, make_values(None)), PPOConfig(temperature=1.0, lam=lam)
    draws = [sampled(policy, reward_of(logits), 250, "gradient", part) for part in range(40)]
    found = [score_rollout(policy, TableLM(reference), *draw, SCALE, 1.0) for draw in draws]
    rollouts, states = zip(*found, strict=True)
    rollout = join_rollouts(rollouts, TOKENIZER.pad_id)
    batch = PPO.batch(policy, rollout, torch.cat(states), beta, settings)
    deviation = (batch.returns - batch.values)[rollout.responses.response_mask].std().item()  # of raw advantages
    parts = []
    for rows in torch.arange(10_000).split(250):
        (loss, _), _ = PPO.loss(policy, select_rows(batch, rows), settings)
        parts.append(gradient_of(policy, -loss * deviation / len(rows)))  # the objective is a mean over responses
    exact = gradient(table, reference, scores_of(logits), beta)
    mean, error = np.mean(parts, 0), np.std(parts, 0, ddof=1) / np.sqrt(len(parts))
    reached = error > 0  # states after an end token have no gradient
    assert (exact[~reached] == 0).all()
    z = (mean - exact)[reached] / error[reached]
    assert reached.sum() == 13 * 4
    assert abs(z).max() < 4.5
    assert (z**2).mean() < 2  # 1 expected; a bias of one standard error everywhere would give 2
    assert np.linalg.norm(mean - exact) < 0.1 * np.linalg.norm(exact)  # so small an error that a fault would show


def _expected_gradient(advantages_of, table, reference, logits, beta):
    """Ascent direction of REINFORCE in expectation over all 40 x 40 batches of two responses.

    The loss is linear in the advantages, so one backward pass covers all batches. In it, the advantage of a response is
    the sum over the batches of its advantage in the batch, times the probability of the batch, divided by two.
    """
    policy, p = policy_of(table, value_head=False), torch.from_numpy(probabilities(table))
    responses = every_response()
    rollout, _ = score_rollout(policy, TableLM(reference), responses, reward_of(logits)(responses), SCALE, 1.0)
    totals = torch.zeros(len(RESPONSES), dtype=torch.float64)
    for pair in itertools.product(range(len(RESPONSES)), repeat=2):
        rows = torch.tensor(pair)
        totals.index_add_(0, rows, p[rows].prod() / 2 * advantages_of(select_rows(rollout, rows), beta).double())
    (loss, count), _ = reinforce_loss(policy, ReinforceBatch(rollout, totals.float()), 1.0)
    assert count == len(RESPONSES)
    return gradient_of(policy, -loss)


def _baseline_with_the_response_itself(rollout, beta):
    rewards = rollout.scores - beta * (rollout.logprobs - rollout.ref_logprobs).sum(1)
    return rewards - rewards.mean()


@pytest.fixture(scope="module")
def slopes():
    """(STATES, VOCABULARY) central differences of E[score] - 0.7 KL, float64."""
    policy, reference, logits = tables()
    scores, h = scores_of(logits), 1e-6
    found = np.zeros_like(policy)
    for place in np.ndindex(*policy.shape):
        step = np.zeros_like(policy)
        step[place] = h
        ends = [objective(policy + sign * step, reference, scores, 0.7) for sign in (1, -1)]
        found[place] = (ends[0] - ends[1]) / (2 * h)
    return found


def test_the_expected_gradient_of_reinforce_is_the_exact_one(slopes):
    expected = _expected_gradient(reinforce_advantages, *tables(), 0.7)
    assert expected == pytest.approx(slopes, abs=1e-6)
    assert abs(slopes).max() > 0.05


def test_a_baseline_that_includes_the_response_itself_makes_the_gradient_too_small_by_n_minus_1_over_n(slopes):
    expected = _expected_gradient(_baseline_with_the_response_itself, *tables(), 0.7)
    assert expected == pytest.approx(slopes / 2, abs=1e-6)  # n = 2


@pytest.mark.parametrize(
    ("beta", "scored", "biased"), [(0.0, 1.0, False), (0.7, 0.0, False), (0.7, 1.0, False), (0.7, 1.0, True)]
)
def test_the_mean_sampled_gradient_of_reinforce_is_the_exact_one(beta, scored, biased):
    """10,000 responses in batches of four, so that a bias of (n - 1) / n is a quarter."""
    table, reference, logits = tables()
    logits = {y: scored * x for y, x in logits.items()}
    policy, frozen, reward = policy_of(table, value_head=False), TableLM(reference), reward_of(logits)
    baseline = _baseline_with_the_response_itself if biased else reinforce_advantages
    parts = []
    for part in range(25):
        responses, raw = sampled(policy, reward, 400, "reinforce", part)
        rollout, _ = score_rollout(policy, frozen, responses, raw, SCALE, 1.0)
        advantages = torch.cat([baseline(select_rows(rollout, rows), beta) for rows in torch.arange(400).split(4)])
        (loss, count), _ = reinforce_loss(policy, ReinforceBatch(rollout, advantages), 1.0)
        parts.append(gradient_of(policy, -loss / count))
    exact = gradient(table, reference, scores_of(logits), beta)
    mean, error = np.mean(parts, 0), np.std(parts, 0, ddof=1) / np.sqrt(len(parts))
    z = (mean - exact)[error > 0] / error[error > 0]
    off = np.linalg.norm(mean - exact) / np.linalg.norm(exact)
    if biased:  # the test can see it
        assert off > 0.15
        assert (z**2).mean() > 2
    else:
        assert abs(z).max() < 4.5
        assert (z**2).mean() < 2
        assert off < 0.12
