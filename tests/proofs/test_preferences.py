"""DPO, IPO, KTO and best-of-n on infinite data: optima that are known in closed form, and exact gradients."""

import math

import numpy as np
import pytest
import torch
from proofs.enumerable import (
    RESPONSES,
    divergence,
    optimum,
    per_response,
    probabilities,
    scores_of,
    state_of,
    tables,
)
from proofs.table_lm import PROMPT, TOKENIZER, TableLM, gradient_of, policy_of, scored_responses

from plaudit.algorithms.best_of_n import Config as BestOfNConfig
from plaudit.algorithms.best_of_n import imitation_loss, kept
from plaudit.algorithms.dpo import Config as DPOConfig
from plaudit.algorithms.dpo import Pair, collate_pairs, pair_loss
from plaudit.algorithms.kto import Config as KTOConfig
from plaudit.algorithms.kto import kl_of_mismatched, marked_loss
from plaudit.batches import MarkedBatch
from plaudit.evaluation.best_of_n import kl_measured
from plaudit.maths.losses import dpo_loss, ipo_loss, kto_loss
from plaudit.models.tokenizer import collate
from plaudit.training.drawn import Drawn
from plaudit.training.offline import nats_of

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


TEXTS = [(PROMPT, list(y)) for y in RESPONSES]
POLICY, _, _ = tables(1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


LENGTHS = np.array([len(y) for y in RESPONSES])
PAIR_LOSSES = {
    "sigmoid": DPOConfig(beta=0.7, temperature=1.0),
    "label smoothing": DPOConfig(beta=0.7, temperature=1.0, label_smoothing=0.2),
    "ipo": DPOConfig(beta=0.7, temperature=1.0, loss="ipo"),
    "simpo": DPOConfig(temperature=1.0, loss="simpo", simpo_beta=1.7, simpo_margin=0.6),
}


def slope_of(name, margin, share):
    """The derivative of the loss of a pair with respect to its margin, where a share of people prefer the first.

    Each is for one vote for the first, and with the signs changed for one for the second.
    """
    if name in ("sigmoid", "label smoothing"):  # -log sigmoid(0.7 margin)
        first, second = -0.7 * sigmoid(-0.7 * margin), 0.7 * sigmoid(0.7 * margin)
        mistakes = 0.2 if name == "label smoothing" else 0.0
        first, second = (1 - mistakes) * first + mistakes * second, (1 - mistakes) * second + mistakes * first
    elif name == "ipo":  # (margin - 1 / (2 x 0.7))^2
        first, second = 2 * margin - 1 / 0.7, 2 * margin + 1 / 0.7
    else:  # -log sigmoid(1.7 margin - 0.6)
        first, second = -1.7 * sigmoid(0.6 - 1.7 * margin), 1.7 * sigmoid(0.6 + 1.7 * margin)
    return share * first + (1 - share) * second


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_whole_of_dpo_has_the_exact_gradient_of_its_objective(name):
    """From token ids to the gradient, with the reference measured as in training; the pairs have every weight."""
    policy, reference = policy_of(POLICY, value_head=False), policy_of(REFERENCE, value_head=False)
    nats = nats_of(reference, TEXTS, TOKENIZER.pad_id, torch.device("cpu"), 1.0)
    assert nats == pytest.approx(np.log(Q), abs=1e-5)
    draw = np.random.default_rng(0)
    rows = draw.permuted(np.tile(np.arange(40), (2, 5)), axis=1)
    shares = draw.choice([0.0, 0.25, 0.5, 1.0], 200)
    pairs = [Pair((TEXTS[a], TEXTS[b]), w, (nats[a], nats[b])) for a, b, w in zip(*rows, shares, strict=True)]
    (loss, count), _ = pair_loss(policy, collate_pairs(pairs, TOKENIZER.pad_id), PAIR_LOSSES[name])
    logp = np.log(probabilities(POLICY))
    # SimPO compares means over the tokens, without the reference; the others compare sums, with it.
    value, divisor = (logp / LENGTHS, LENGTHS) if name == "simpo" else (logp - np.log(Q), np.ones(40))
    slopes = slope_of(name, value[rows[0]] - value[rows[1]], shares) / 200
    weights = (np.bincount(rows[0], slopes, 40) - np.bincount(rows[1], slopes, 40)) / divisor
    assert count == 200
    assert gradient_of(policy, loss / count) == pytest.approx(per_response(POLICY, weights), abs=1e-6)
    assert abs(per_response(POLICY, weights)).max() > 0.02


def test_what_kto_compares_with_is_the_mean_log_ratio_of_the_mismatched_pairs_and_never_below_0():
    """The prompts differ in the state that they leave, so that each prompt has to get the next response."""
    prompts, responses = [(), (1,), (2,), (3,)], [(1, 0), (2, 3), (0,), (3,)]
    texts = [([*PROMPT, *prompt], list(y)) for prompt, y in zip(prompts, responses, strict=True)]
    ratio = {
        (prompt, y): sum(logp(POLICY, prompt, y, t) - logp(REFERENCE, prompt, y, t) for t in range(len(y)))
        for prompt in prompts
        for y in responses
    }
    exact = np.mean([ratio[prompts[i], responses[(i + 1) % 4]] for i in range(4)])
    assert abs(exact) > 0.1
    others = [np.mean([ratio[prompts[i], responses[(i + shift) % 4]] for i in range(4)]) for shift in (0, 2, 3)]
    assert min(abs(exact - other) for other in others) > 0.05  # no other pairing has this value

    def measured(policy, reference):
        policy = policy_of(policy, value_head=False)
        return kl_of_mismatched(policy, TableLM(reference), texts, TOKENIZER.pad_id, torch.device("cpu"), 1.0)

    both = measured(POLICY, REFERENCE), measured(REFERENCE, POLICY)
    assert both == pytest.approx((max(0.0, exact), max(0.0, -exact)), abs=1e-6)
    assert sorted(both)[0] == 0.0


def logp(table, prompt, y, t):
    """Log-probability of the token at place t of a response, after the tokens of its prompt."""
    row = table[state_of((*prompt, *y[:t]))]
    return row[y[t]] - np.log(np.exp(row).sum())


@pytest.mark.parametrize("kl", [0.0, 0.4])
def test_the_whole_of_kto_has_the_exact_gradient_of_its_objective(kl):
    """The derivative of a sigmoid times that of the log-probability: the KL is a constant."""
    policy = policy_of(POLICY, value_head=False)
    marks = (np.arange(40) % 4 / 3).round(4)
    settings = KTOConfig(beta=0.7, good_weight=1.5, bad_weight=0.8, temperature=1.0)
    columns = (torch.tensor(x, dtype=torch.float32) for x in (np.log(Q), marks, np.full(40, kl)))
    (loss, count), _ = marked_loss(policy, MarkedBatch(collate(TEXTS, TOKENIZER.pad_id), *columns), settings)
    gain = settings.beta * (np.log(probabilities(POLICY) / Q) - kl)
    slope = settings.beta * sigmoid(gain) * sigmoid(-gain)
    weights = -slope * settings.good_weight * marks + slope * settings.bad_weight * (1 - marks)
    assert count == 40
    assert gradient_of(policy, loss) == pytest.approx(per_response(POLICY, weights), abs=1e-5)


def test_kto_values_a_gain_less_the_larger_it_is_already():
    """The value is that of prospect theory: concave for gains of good responses, convex for losses."""
    ratios = torch.linspace(0.0, 6.0, 25)
    each = [kto_loss(r[None], torch.ones(1), torch.zeros(1), 1.0)[0].item() for r in ratios]
    falls = -np.diff(each)
    assert (falls > 0).all()
    assert (np.diff(falls) < 0).all()


@pytest.mark.parametrize("n", [2, 4, 8])
def test_best_of_n_imitates_the_distribution_of_the_best(n):
    """The texts that it learns from have the distribution of best-of-n, whose KL is that of the frontier."""
    order = np.argsort(SCORES)
    below = np.empty(40)
    below[order] = np.cumsum(Q[order]) - Q[order]
    winners = (below + Q) ** n - below**n
    draw = np.random.default_rng(0)
    groups = [[Drawn(TEXTS[y], SCORES[y]) for y in row] for row in draw.choice(40, (20_000, n), p=Q)]
    places = {tuple(text[1]): place for place, text in enumerate(TEXTS)}
    shares = np.bincount([places[tuple(text[1])] for text in kept(groups, "best", 1)], minlength=40) / len(groups)
    assert np.abs(shares - winners).max() < 5 * math.sqrt(0.25 / len(groups))

    ranking = draw.choice(40, (1, 20_000), p=Q)
    assert divergence(winners, Q) == pytest.approx(kl_measured(SCORES[ranking], n).item(), abs=0.03)


def test_imitation_has_the_gradient_of_the_log_likelihood():
    """So on infinite data it reaches the distribution of its texts."""
    policy, times = policy_of(REFERENCE, value_head=False), np.arange(40) % 3
    texts = [text for text, count in zip(TEXTS, times, strict=True) for _ in range(count)]
    loss, tokens = imitation_loss(policy, collate(texts, TOKENIZER.pad_id), BestOfNConfig(temperature=1.0))
    assert tokens == sum(len(text[1]) for text in texts)
    assert gradient_of(policy, loss) == pytest.approx(per_response(REFERENCE, -times), abs=1e-5)
