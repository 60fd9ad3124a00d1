"""PPO's end is known: reference x exp(score / beta), normalised. The whole update must arrive there."""

import pytest
from proofs.enumerable import divergence, objective, optimum, probabilities, scores_of, tables
from proofs.table_lm import RUN, SCALE, TableLM, TableReward, sampled

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.algorithms.ppo import learn
from plaudit.algorithms.rollout import collect, estimate
from plaudit.models.heads import Policy
from plaudit.training import optimizer as optim

ITERATIONS, ROWS = 80, 512
SETTINGS = PPOConfig(
    batch_size=ROWS, minibatch_size=256, epochs=2, temperature=1.0, lr=0.1, lam=0.95, value_coef=1.0, kl_stop=1.0
)


def _trained(reference, logits, beta):
    """The reference's table after PPO against it: sampled, whitened, clipped, by the library's own update."""
    policy, frozen, reward_model = Policy(TableLM(reference)), TableLM(reference), TableReward(logits)
    optimizer = optim.adamw(policy, SETTINGS.lr, eps=1e-5)
    for iteration in range(ITERATIONS):
        responses, scores = sampled(policy.lm, reward_model, ROWS, "optimum", iteration)
        rollout, _, _ = collect(policy, frozen, scores, responses, SCALE, 1.0, RUN)
        experience = estimate(rollout, beta, gamma=1.0, lam=SETTINGS.lam)
        optim.set_lr(optimizer, SETTINGS.lr * (1 - iteration / ITERATIONS))
        learn(policy, optimizer, experience, SETTINGS, 0, iteration, RUN)
    return policy.lm.table


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 3.0])
def test_the_oracle_s_optimum_is_one(beta):
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
def test_training_arrives_at_the_known_optimum(beta):
    _, reference, logits = tables()
    best = optimum(reference, scores_of(logits), beta)
    p, q = probabilities(_trained(reference, logits, beta)), probabilities(reference)
    assert divergence(q, best) > 0.03  # there is a way to go: 4.9, 0.33 and 0.033 nats
    assert divergence(p, best) < 5e-4
    # Sampling noise: the last steps see 512 responses, and a learning rate of a hundredth of the first.
    assert abs(p - best).max() < 4e-3
