"""DPO and IPO on infinite data: their optimum is known in closed form."""

import numpy as np
import pytest
import torch
from proofs.enumerable import divergence, optimum, probabilities, scores_of, tables
from proofs.table_lm import policy_of, scored_responses

from plaudit.maths.losses import dpo_loss, ipo_loss

_, REFERENCE, LOGITS = tables()
SCORES, Q = scores_of(LOGITS), probabilities(REFERENCE)
FIRST, SECOND = (torch.from_numpy(x) for x in np.indices((40, 40)).reshape(2, -1))


def trained(loss_of_margins, steps=400):
    """The policy that minimises a loss over all pairs of responses, from the reference."""
    policy = policy_of(REFERENCE, value_head=False)
    optimizer = torch.optim.LBFGS(policy.lm.parameters(), lr=1, max_iter=steps, line_search_fn="strong_wolfe")
    reference = torch.log(torch.from_numpy(Q)).float()

    def closure():
        optimizer.zero_grad()
        ratio = scored_responses(policy) - reference
        loss = loss_of_margins(ratio[FIRST] - ratio[SECOND])
        loss.backward()
        return loss

    optimizer.step(closure)
    return probabilities(policy.lm.table)


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_dpo_on_all_pairs_of_bradley_terry_people_reaches_the_optimum_of_rlhf(beta):
    """reference x exp(score / beta): the policy that PPO converges to with the same beta."""
    preferred = torch.sigmoid(torch.from_numpy(SCORES)[FIRST] - torch.from_numpy(SCORES)[SECOND]).float()

    def loss(margins):
        total, count = dpo_loss(margins, preferred, beta)
        return total / count

    best = optimum(REFERENCE, SCORES, beta)
    assert divergence(Q, best) > 0.03
    assert divergence(trained(loss), best) < 1e-3


def test_with_the_responses_swapped_it_reaches_the_opposite():
    preferred = torch.sigmoid(torch.from_numpy(SCORES)[SECOND] - torch.from_numpy(SCORES)[FIRST]).float()

    def loss(margins):
        total, count = dpo_loss(margins, preferred, 1.0)
        return total / count

    assert divergence(trained(loss), optimum(REFERENCE, -SCORES, 1.0)) < 1e-3


def test_ipo_reaches_margins_of_half_the_expected_preference():
    """Its optimum is reference x exp(E[preference over others] / beta) where the others come from all responses."""
    gaps = torch.from_numpy(SCORES)[FIRST] - torch.from_numpy(SCORES)[SECOND]
    preferred, beta = torch.sigmoid(gaps).float(), 0.7

    def loss(margins):
        total, count = ipo_loss(margins, preferred, beta)
        return total / count

    wins = torch.sigmoid(gaps).view(40, 40).mean(1).numpy()
    assert divergence(trained(loss), optimum(REFERENCE, wins, beta)) < 1e-4
