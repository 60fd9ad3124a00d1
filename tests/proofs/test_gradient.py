"""The gradients of the algorithms are, on average, the gradient of E[score] - beta KL, known by enumeration."""

import itertools

import numpy as np
import pytest
import torch
from proofs.enumerable import CAP, EOS, RESPONSES, gradient, objective, probabilities, scores_of, tables
from proofs.table_lm import PROMPT, SCALE, TOKENIZER, TableLM, policy_of, reward_of, sampled

from plaudit.algorithms.ppo import rollout_values
from plaudit.algorithms.reinforce import ReinforceBatch, reinforce_advantages, reinforce_loss
from plaudit.batches import Responses, select_rows
from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.losses import policy_loss
from plaudit.models.tokenizer import collate
from plaudit.training.rollouts import score_rollout


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


def _sampled_gradient(policy, reference, reward, beta, rows, part):
    """Ascent direction from one batch of `rows` responses: rewards, raw GAE, policy loss at ratio 1."""
    responses, raw = sampled(policy, reward, rows, "gradient", part)
    rollout, states = score_rollout(policy, reference, responses, raw, SCALE, 1.0)
    mask = responses.response_mask
    rewards = token_rewards(rollout.scores, rollout.penalised_kl, mask, beta)
    advantages, _ = gae(rewards, rollout_values(policy, states, rollout), mask, gamma=1.0, lam=1.0)
    logprobs, _ = policy(responses.ids, responses.attention_mask, mask)
    (loss, _), _ = policy_loss(logprobs, rollout.logprobs, advantages, mask, clip_range=0.2)
    policy.zero_grad()
    (-loss / rows).backward()  # the loss is a sum over tokens; the objective is a mean over responses
    return policy.lm.head.weight.grad.double().numpy().T.copy()


@pytest.mark.parametrize("baseline", [0.0, 0.5])
@pytest.mark.parametrize(("beta", "scored"), [(0.0, 1.0), (0.7, 0.0), (0.7, 1.0)])
def test_the_mean_sampled_gradient_of_ppo_is_the_exact_one(beta, scored, baseline):
    table, reference, logits = tables()
    logits = {y: scored * x for y, x in logits.items()}
    policy = policy_of(table)
    torch.nn.init.normal_(
        policy.value_head.weight, std=baseline, generator=torch.Generator().manual_seed(0)
    )  # lam = 1: any baseline is unbiased
    parts = np.stack(
        [
            _sampled_gradient(policy, TableLM(reference), reward_of(logits), beta, 250, part) for part in range(40)
        ]  # 10,000 responses
    )
    exact = gradient(table, reference, scores_of(logits), beta)
    mean, error = parts.mean(0), parts.std(0, ddof=1) / np.sqrt(len(parts))
    reached = error > 0  # states after an end token have no gradient
    assert (exact[~reached] == 0).all()
    z = (mean - exact)[reached] / error[reached]
    assert reached.sum() == 13 * 4
    assert abs(z).max() < 4.5
    assert (z**2).mean() < 2  # 1 expected; a bias of one standard error everywhere would give 2
    assert np.linalg.norm(mean - exact) < 0.1 * np.linalg.norm(exact)  # so small an error that a fault would show


def _every_response():
    """All 40 responses as one batch."""
    batch = collate([(PROMPT, list(y)) for y in RESPONSES], TOKENIZER.pad_id)
    ended = torch.tensor([y[-1] == EOS for y in RESPONSES])
    return Responses(batch.ids, batch.attention_mask, batch.loss_mask[:, -CAP:], ended)


def _expected_gradient(advantages_of, table, reference, logits, beta):
    """Ascent direction of REINFORCE in expectation over all 40 x 40 batches of two responses.

    The loss is linear in the advantages, so one backward pass covers all batches. In it, the advantage of a response is
    the sum over the batches of its advantage in the batch, times the probability of the batch, divided by two.
    """
    policy, p = policy_of(table, value_head=False), torch.from_numpy(probabilities(table))
    responses = _every_response()
    rollout, _ = score_rollout(policy, TableLM(reference), responses, reward_of(logits)(responses), SCALE, 1.0)
    totals = torch.zeros(len(RESPONSES), dtype=torch.float64)
    for pair in itertools.product(range(len(RESPONSES)), repeat=2):
        rows = torch.tensor(pair)
        totals.index_add_(0, rows, p[rows].prod() / 2 * advantages_of(select_rows(rollout, rows), beta).double())
    (loss, count), _ = reinforce_loss(policy, ReinforceBatch(rollout, totals.float()), 1.0)
    assert count == len(RESPONSES)
    (-loss).backward()
    return policy.lm.head.weight.grad.double().numpy().T


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
        policy.zero_grad()
        (-loss / count).backward()
        parts.append(policy.lm.head.weight.grad.double().numpy().T.copy())
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
