"""Every response of a language model with four tokens and at most three of them: sums over all 40 of them, in float64.

In plain numpy, without the library: the reference for the library's results. A model is a table
(STATES, VOCABULARY) of next-token logits; a distribution over responses is an array (40,) in the order of RESPONSES.
"""

import numpy as np

VOCABULARY, EOS, CAP = 4, 0, 3
STATES = 2 * VOCABULARY**CAP
PENALTY = 0.8  # subtracted from the score of a response that the length limit cut off


def state_of(tokens):
    """The row of a table for the tokens so far: the number with these digits in base 4 after a leading 1."""
    state = 1
    for token in tokens:
        state = VOCABULARY * state + token
    return state


def _continued(tokens):
    for token in range(VOCABULARY):
        whole = (*tokens, token)
        if token == EOS or len(whole) == CAP:
            yield whole
        else:
            yield from _continued(whole)


RESPONSES = tuple(_continued(()))


def scores_of(logits):
    """(40,) score of every response: its logit, less the penalty where the length limit cut it off."""
    return np.array([logits[y] if y[-1] == EOS else logits[y] - PENALTY for y in RESPONSES])


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def probabilities(table):
    """(40,) probability of every response, float64."""
    return np.array([np.prod([_softmax(table[state_of(y[:t])])[y[t]] for t in range(len(y))]) for y in RESPONSES])


def divergence(p, q):
    """Exact KL(p || q) in nats over whole responses."""
    return float(np.sum(p * np.log(p / q)))


def objective(table, reference, scores, beta):
    """E[score] - beta KL(policy || reference)."""
    p = probabilities(table)
    return float(p @ scores) - beta * divergence(p, probabilities(reference))


def gradient(table, reference, scores, beta):
    """(STATES, VOCABULARY) gradient of the objective: E[(score - beta log p/q) grad log p], all terms summed."""
    return per_response(table, probabilities(table) * rewards(table, reference, scores, beta))


def rewards(table, reference, scores, beta):
    """(40,) score of every response, less beta times its log-ratio to the reference."""
    return scores - beta * np.log(probabilities(table) / probabilities(reference))


def per_response(table, weights):
    """(STATES, VOCABULARY) sum over all responses of a weight (40,) times the gradient of their log-probability."""
    out = np.zeros_like(table)
    for y, weight in zip(RESPONSES, weights, strict=True):
        for t in range(len(y)):
            state = state_of(y[:t])
            out[state] -= weight * _softmax(table[state])
            out[state, y[t]] += weight
    return out


def optimum(reference, scores, beta):
    """(40,) the distribution that maximises the objective: reference x exp(score / beta), normalised."""
    weights = probabilities(reference) * np.exp(scores / beta)
    return weights / weights.sum()


def occupancy(distribution):
    """(STATES, VOCABULARY) probability that a response has a token in a state."""
    mass = np.zeros((STATES, VOCABULARY))
    for y, p in zip(RESPONSES, distribution, strict=True):
        for t in range(len(y)):
            mass[state_of(y[:t]), y[t]] += p
    return mass


def table_of(distribution):
    """The table of the policy with these probabilities (40,) of the responses."""
    mass = occupancy(distribution)
    return np.log(np.where(mass > 0, mass, 1.0))


def tables(seed=0, spread=1.0):
    """A policy's table, a reference's, and the reward-model logit of every response."""
    draw = np.random.default_rng(seed)
    policy, reference = spread * draw.standard_normal((2, STATES, VOCABULARY))
    return policy, reference, {y: float(draw.standard_normal()) for y in RESPONSES}
