"""The gradients of the algorithms are, on average, the gradient of E[score] - beta KL, which a full enumeration gives."""

import numpy as np
import pytest
import torch
from proofs.enumerable import RESPONSES, gradient, objective, probabilities, scores_of, tables
from proofs.table_lm import SCALE, TableLM, policy_of, reward_of, sampled

from plaudit.algorithms.ppo import rollout_values
from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.losses import policy_loss
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
    rewards = token_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, mask, beta)
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
