"""What moves people besides quality: the side on which a response stands, its length, how positive it is.

An effect is in log odds between two responses that people value alike: +0.4 for the left side means that the left one
is chosen in 60% of such pairs. How much people value one response over the other is a random effect of the pair,
because leaving it out makes every effect too small. How large these differences are shows in pairs with several votes;
with one vote a pair it stays open, and the intervals become wide. What one person alone likes in a response is noise
here, as in every such model: effects are relative to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from plaudit.feedback.store import Completion, Label
from plaudit.maths.intervals import Z95

# A short list says enough to see whether people choose by it. English only.
POSITIVE = re.compile(
    r"\b(?:"
    r"amazing|beautiful|best|brilliant|captivating|charming|clever|delight|delightful|enjoy|enjoyable|enjoyed|"
    r"engaging|entertaining|excellent|fantastic|fascinating|favorite|favourite|fine|fresh|fun|funny|good|great|"
    r"happy|heartfelt|hilarious|impressive|inventive|kind|love|loved|lovely|masterpiece|memorable|moving|nice|"
    r"perfect|pleasure|powerful|remarkable|smart|solid|strong|superb|sweet|terrific|thanks|thoughtful|touching|"
    r"warm|well|witty|wonderful|worth"
    r")\b",
    re.IGNORECASE,
)
NEGATIVE = re.compile(
    r"\b(?:"
    r"annoying|awful|bad|bland|boring|clumsy|confusing|contrived|disappointing|disappointment|disaster|dreadful|"
    r"dull|dumb|empty|fails|failure|flat|forgettable|hate|hated|horrible|lame|lazy|mediocre|mess|obvious|painful|"
    r"pathetic|pointless|poor|predictable|pretentious|ridiculous|sad|shallow|silly|sloppy|slow|stale|stupid|"
    r"tedious|terrible|tired|tiresome|ugly|uninspired|unfunny|unpleasant|waste|weak|worse|worst|wrong"
    r")\b",
    re.IGNORECASE,
)
_TASTES = np.linspace(0, 3, 7)  # standard deviation, over pairs, of how much one response is preferred
_USUAL = 1.5  # log odds: larger ones are less and less likely, which matters only where the votes say little
_PRIOR = 3.0  # standard deviation of an effect: keeps it finite when everybody always chose left
_NODES = np.linspace(-4, 4, 61)  # of a standard normal variable; so many that votes of 100 people on a pair fit between
_LOG_MASS = -(_NODES**2) / 2 - logsumexp(-(_NODES**2) / 2)


@dataclass(frozen=True)
class Effect:
    """What a property of a response adds to the log odds that it is chosen, with its 95% interval."""

    name: str
    unit: str
    estimate: float
    low: float
    high: float
    votes: int

    @property
    def share(self) -> float:
        """How often the response with one unit more is chosen, of two that people value alike."""
        return float(expit(self.estimate))


def positivity(text: str) -> int:
    """Positive words minus negative words."""
    return len(POSITIVE.findall(text)) - len(NEGATIVE.findall(text))


def doublings(one: str, other: str) -> float:
    """How many times longer `one` is, as a power of 2 of the numbers of characters."""
    return float(np.log2(max(len(one), 1) / max(len(other), 1)))


def effects(labels: Sequence[Label], completions: Mapping[int, Completion]) -> list[Effect]:
    """Effects of side, length and positivity on the decisive votes; those that the votes cannot tell are left out.

    Length and positivity are not assigned at random, as sides are: where longer or more positive responses are better,
    people have a reason to choose them.
    """
    votes = [label for label in labels if label.outcome in ("a", "b")]
    if not votes:
        return []
    texts = [(completions[label.a].text, completions[label.b].text) for label in votes]
    of_a = {
        ("position", "on the left"): [1.0 if label.left == "a" else -1.0 for label in votes],
        ("length", "twice as long"): [doublings(a, b) for a, b in texts],
        ("positivity", "one positive word more"): [float(positivity(a) - positivity(b)) for a, b in texts],
    }
    shown = {name: column for name, column in of_a.items() if any(column)}
    ends = estimates(
        np.array(list(shown.values())).T,
        np.array([label.outcome == "a" for label in votes]),
        np.array([label.item for label in votes]),
    )
    return [
        Effect(name, unit, float(mean), float(mean - Z95 * deviation), float(mean + Z95 * deviation), len(votes))
        for (name, unit), mean, deviation in zip(shown, *ends, strict=True)
    ]


def estimates(x: np.ndarray, chose_a: np.ndarray, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) mean and standard deviation of effects, by logistic regression with a random effect of each pair.

    Args:
        x: (V, C) properties of response a minus those of response b.
        chose_a: (V,) the votes.
        pair: (V,) which pair each is about.

    The spread of the random effect is integrated over a grid, by evidence, as the scale in `head` is.
    """
    order = np.argsort(pair, kind="stable")
    x, sign = x[order], np.where(chose_a, 1.0, -1.0)[order]
    of_pair = np.bincount(np.unique(pair, return_inverse=True)[1].ravel())
    effect, found = np.zeros(x.shape[1]), []
    for taste in _TASTES:
        for _ in range(50):
            height, gradient, precision = _marginal(effect, taste, x, sign, of_pair)
            step = np.linalg.solve(precision, gradient)
            # The height is concave, and steps of at most 1 do not leave the region where Newton's method converges.
            effect = effect + step / max(1.0, np.abs(step).max())
            if gradient @ step < 1e-8:
                break
        found.append((height - np.linalg.slogdet(precision)[1] / 2, effect, np.diag(np.linalg.inv(precision))))
    log_evidence, means, variances = (np.array(column) for column in zip(*found, strict=True))
    log_evidence = log_evidence - _TASTES**2 / (2 * _USUAL**2)
    weight = np.exp(log_evidence - logsumexp(log_evidence))
    mean = weight @ means
    return mean, np.sqrt(weight @ (variances + (means - mean) ** 2))


def _marginal(
    effect: np.ndarray, taste: float, x: np.ndarray, sign: np.ndarray, of_pair: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log posterior of the effects with the random effect integrated out; its gradient and negative second derivative.

    The votes are in the order of the pairs, `of_pair` (P,) on each. Source of the second derivative: Louis 1982.
    """
    starts = np.cumsum([0, *of_pair[:-1]])
    logit = (x @ effect)[:, None] + taste * _NODES  # (V, nodes)
    joint = np.add.reduceat(log_expit(sign[:, None] * logit), starts) + _LOG_MASS  # (P, nodes)
    height = logsumexp(joint, axis=1)
    belief = np.exp(joint - height[:, None])  # in each value of the random effect, given the votes
    p = expit(logit)
    residual = (sign > 0)[:, None] - p
    score = np.add.reduceat(residual[..., None] * x[:, None, :], starts)  # (P, nodes, C)
    expected = np.einsum("pq,pqc->pc", belief, score)
    curvature = x.T @ (x * (np.repeat(belief, of_pair, axis=0) * p * (1 - p)).sum(1, keepdims=True))
    missing = np.einsum("pq,pqc,pqd->cd", belief, score, score, optimize=True) - expected.T @ expected
    precision = curvature - missing + np.eye(x.shape[1]) / _PRIOR**2
    return (
        float(height.sum() - effect @ effect / (2 * _PRIOR**2)),
        expected.sum(0) - effect / _PRIOR**2,
        precision,
    )
