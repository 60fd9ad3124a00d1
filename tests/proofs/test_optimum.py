"""The optimum of PPO is known: reference x exp(score / beta), normalised. The whole update must converge to it."""

import pytest
from proofs.enumerable import divergence, objective, optimum, probabilities, scores_of, tables
from proofs.table_lm import SCALE, TableLM, policy_of, reward_of, sampled

from plaudit import rng
from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import compute_advantages, number_of_tokens, ppo_loss, rollout_values
from plaudit.training.optimizer import adamw, set_lr, update
from plaudit.training.rollouts import score_rollout

ITERATIONS, ROWS = 80, 512
SETTINGS = PPOConfig(
    batch_size=ROWS, minibatch_size=256, epochs=2, temperature=1.0, lr=0.1, lam=0.95, value_coef=1.0, kl_stop=1.0
)


def _trained(reference, logits, beta):
    """The table that PPO makes of the reference's, with the library's own update."""
    policy, frozen, reward = policy_of(reference), TableLM(reference), reward_of(logits)
    optimizer = adamw(policy, SETTINGS.lr, eps=1e-5)
    for iteration in range(ITERATIONS):
        responses, raw = sampled(policy, reward, ROWS, "optimum", iteration)
        rollout, states = score_rollout(policy, frozen, responses, raw, SCALE, 1.0)
        values = rollout_values(policy, states, rollout)
        set_lr(optimizer, SETTINGS.lr * (1 - iteration / ITERATIONS))
        update(
            policy,
            optimizer,
            compute_advantages(rollout, values, beta, gamma=1.0, lam=SETTINGS.lam),
            loss=lambda batch: ppo_loss(policy, batch, SETTINGS),
            count=number_of_tokens,
            settings=SETTINGS,
            orders=[
                rng.permutation(ROWS, 0, "optimum", SETTINGS.epochs * iteration + e) for e in range(SETTINGS.epochs)
            ],
            where="test",
        )
    return policy.lm.table


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
