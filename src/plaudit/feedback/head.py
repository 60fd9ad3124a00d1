"""The reward model that learns while people vote: Bayesian linear Bradley-Terry on fixed activations of the responses.

P(a over b) = sigmoid(w . (x_a - x_b)), with w ~ N(0, scale^2 I). The scale is not known: each scale of a grid has its
own posterior (Laplace: Newton's method to the mode, then the curvature there), and the evidence of each is its weight.
A tie is half a vote for each side. Votes of several people are votes about one w.

Sources: MacKay 1992 (evidence), Houlsby et al. 2011 (information gain), Raiffa and Schlaifer 1961 (value of more data).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from scipy.special import entr, expit, log_expit, logsumexp, ndtr

from plaudit.errors import FeedbackError
from plaudit.feedback.store import Label

DIRECTIONS = 128  # of the activations, those in which the responses differ most
SCALES = np.geomspace(0.1, 100, 10)  # standard deviation of the log odds of a typical pair, before any vote
SHARE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}  # of a vote that is for response a
_NEGLIGIBLE = np.log(1e-3)  # evidence of a scale, relative to the best
_NODES = np.linspace(-4, 4, 33)  # of a standard normal variable; equal steps, because |x| has a kink
_MASS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()
AHEAD = 100  # votes: how far the outlook reaches at least
WORTH = 0.01  # the smallest gain in accuracy that is worth as many votes again
UNLIKELY = 0.05  # probability of such a gain below which further votes do not pay


@dataclass(frozen=True)
class Pool:
    """All responses, each as a point (r,): a typical squared distance between two of them is 1."""

    place: Mapping[int, int]  # row of `points` by the id of the response
    points: np.ndarray  # (N, r)
    kept: float  # share of the variance of the activations that the r directions have

    @staticmethod
    def of(features: Mapping[int, np.ndarray]) -> Pool:
        """From the activations (D,) of each response, by id.

        Each activation is standardised: in a language model a few have a variance that hides all others.
        """
        if len({np.shape(x) for x in features.values()}) != 1:
            widths = sorted({np.size(x) for x in features.values()})
            raise FeedbackError(f"activations of {len(features)} responses have widths {widths}: compute them again")
        x = np.stack([np.asarray(row, np.float64) for row in features.values()])
        if not np.isfinite(x).all():
            raise FeedbackError("an activation is not finite: compute them again in float32")
        x -= x.mean(0)
        spread = x.std(0)
        x = x[:, spread > 1e-6] / spread[spread > 1e-6]
        wide = x.shape[1] > len(x)
        variance, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        variance, vectors = variance[::-1].clip(0), vectors[:, ::-1]
        r = min(DIRECTIONS, int((variance > 1e-9 * variance.sum()).sum()))
        points = vectors[:, :r] * np.sqrt(variance[:r]) if wide else x @ vectors[:, :r]
        total = float(variance.sum()) or 1.0
        points *= np.sqrt(len(x) / (2 * total))
        return Pool({name: i for i, name in enumerate(features)}, points, float(variance[:r].sum()) / total)

    def differences(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """(P, r) point of the first response minus that of the second, for pairs of ids."""
        if missing := {one for pair in pairs for one in pair} - self.place.keys():
            raise FeedbackError(f"response {min(missing)} has no activations: compute them before the model learns")
        rows = np.array([(self.place[a], self.place[b]) for a, b in pairs], dtype=int).reshape(-1, 2)
        return self.points[rows[:, 0]] - self.points[rows[:, 1]]


@dataclass(frozen=True)
class Outlook:
    """What the next `votes` votes are expected to change on a set of pairs, by the model's own posterior."""

    votes: int
    changed: float  # share of pairs about which the model would choose the other response
    accuracy: float  # of its prediction of a person's choice, now
    accuracy_then: float
    paying: float  # probability that they raise the accuracy by `WORTH` or more

    @property
    def enough(self) -> bool:
        """Whether further votes will no longer change much."""
        return self.paying < UNLIKELY


@dataclass(frozen=True)
class Head:
    """Posterior of w: for each scale that the evidence supports, a Gaussian. (K scales, r directions, P pairs)"""

    scale: np.ndarray  # (K,)
    weight: np.ndarray  # (K,) their evidence, normalised
    mean: np.ndarray  # (K, r)
    root: np.ndarray  # (K, r, r) the covariance is root @ root.T

    def _latent(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K, P) mean and standard deviation of w . z under each scale."""
        return self.mean @ z.T, np.sqrt(((z @ self.root) ** 2).sum(-1))

    def _chances(self, z: np.ndarray) -> np.ndarray:
        """(K, P, nodes) probabilities of the first response, spread as the posterior is."""
        mean, deviation = self._latent(z)
        return expit(mean[..., None] + deviation[..., None] * _NODES)

    def latent(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P,) mean and standard deviation of the log odds: the second is what the model does not know yet."""
        mean, deviation = self._latent(z)
        centre = self.weight @ mean
        return centre, np.sqrt(self.weight @ (deviation**2 + (mean - centre) ** 2))

    def probability(self, z: np.ndarray) -> np.ndarray:
        """(P,) probability that a person chooses the first response, with z = the differences (P, r)."""
        return self.weight @ (self._chances(z) @ _MASS)

    def information(self, z: np.ndarray) -> np.ndarray:
        """(P,) bits that a vote on each pair is expected to tell about w (BALD): large where votes differ for want of
        knowledge, small where people simply disagree."""
        chances = self._chances(z)
        return _bits(self.weight @ (chances @ _MASS)) - self.weight @ (_bits(chances) @ _MASS)

    def outlook(self, z: np.ndarray, votes: int = AHEAD) -> Outlook:
        """What `votes` more votes, on pairs that are drawn from z (P, r), are expected to change on all of z.

        A vote on a pair makes the posterior narrower by its Fisher information, whatever its outcome; the mean moves by
        as much as the posterior narrows. The variance of that move gives the share of pairs whose sign flips, and the
        expected accuracy afterwards. A scale decides how much there is to learn; the evidence says which scales are
        still possible, and early on nearly all are.
        """
        mean, deviation = self._latent(z)
        fisher = (lambda p: p * (1 - p))(self._chances(z)) @ _MASS  # (K, P)
        seen = np.array(
            [_after(*of_scale, z, votes) for of_scale in zip(mean, deviation, fisher, self.root, strict=True)]
        )
        changed, now, then = self.weight @ seen
        paying = self.weight @ (seen[:, 2] - seen[:, 1] >= WORTH)
        return Outlook(votes, float(changed), float(now), float(then), float(paying))


def _after(
    mean: np.ndarray, deviation: np.ndarray, fisher: np.ndarray, root: np.ndarray, z: np.ndarray, votes: int
) -> tuple[float, float, float]:
    """Under one scale: the share of pairs that flip, the expected accuracy now, and that after `votes` more votes."""
    gained = root.T @ ((z.T * fisher) @ z) @ root * (votes / len(z))
    narrowed = root @ np.linalg.inv(np.linalg.cholesky(np.eye(z.shape[1]) + gained)).T
    later = np.sqrt(((z @ narrowed) ** 2).sum(1))
    move = np.sqrt((deviation**2 - later**2).clip(1e-18))
    then = _right(mean[:, None] + move[:, None] * _NODES, later[:, None]) @ _MASS
    return ndtr(-np.abs(mean) / move).mean(), _right(mean, deviation).mean(), then.mean()


class Learner:
    """The head, kept up to date as people vote, and what it predicted about each vote before it was cast."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._votes: list[tuple[int, int, float]] = []
        self._predicted: list[float] = []
        self._heads: dict[int, Head] = {}  # by the number of votes behind it: those that are needed again

    def follow(self, labels: Sequence[Label]) -> None:
        """Learn from all labels: all that are valid now, skips left out, in the order in which they were given.

        When an answer is taken back or revised, what was learned after it is computed anew.
        """
        votes = [(label.a, label.b, SHARE[label.outcome]) for label in labels]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._votes, votes, strict=False)))
        del self._predicted[same:]
        self._heads = {n: head for n, head in self._heads.items() if n <= same}
        self._votes = votes
        z, _ = self._rows(len(votes))
        for n in range(same, len(votes)):
            self._predicted.append(float(self._head(_basis(n)).probability(z[n : n + 1])[0]))

    @property
    def head(self) -> Head:
        """The posterior given all votes."""
        return self._head(len(self._votes))

    @property
    def predicted(self) -> np.ndarray:
        """(V,) for each vote, the probability of response a, predicted from the votes before it.

        Each prediction is made from at least 15 of 16 of them: a fit for each of 2,000 votes would take a minute.
        """
        return np.array(self._predicted)

    def outlook(self, pairs: Sequence[tuple[int, int]]) -> Outlook:
        """What as many votes again, at least `AHEAD`, are expected to change on these pairs."""
        return self.head.outlook(self.pool.differences(pairs), max(AHEAD, len(self._votes)))

    def information(self, pairs: Mapping[int, tuple[int, int]]) -> dict[int, float]:
        """By the id of an item, the bits that a vote on its two responses is expected to tell.

        For `assignment.next`, which asks about the item with the most, beside a share of random ones.
        """
        bits = self.head.information(self.pool.differences(list(pairs.values())))
        return dict(zip(pairs, bits.tolist(), strict=True))

    def _rows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        votes = self._votes[:n]
        return self.pool.differences([(a, b) for a, b, _ in votes]), np.array([share for *_, share in votes])

    def _head(self, n: int) -> Head:
        if n not in self._heads:
            start = self._heads[max(self._heads)] if self._heads else None
            self._heads[n] = fit(*self._rows(n), start)
            self._heads = {m: head for m, head in self._heads.items() if m in (n, _basis(len(self._votes)))}
        return self._heads[n]


def _basis(n: int) -> int:
    """How many of the n votes before a vote its prediction is made from: n, rounded down to five binary digits."""
    return n - n % max(1, 1 << (n.bit_length() - 5)) if n >= 32 else n


def fit(z: np.ndarray, share: np.ndarray, start: Head | None = None) -> Head:
    """The posterior given votes on pairs.

    Args:
        z: (V, r) differences, first response minus second, as `Pool.differences` has them.
        share: (V,) 1 where the first was chosen, 0 where the second was, 1/2 for a tie.
        start: the posterior before the last votes. The result is the same without it; it comes sooner.
    """
    z, share, votes = _merged(z, share)
    found: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}

    def evidence(k: int) -> float:
        if k not in found:
            near = [found[other][1] for other in sorted(found, key=lambda other: abs(other - k))]
            if start is not None and SCALES[k] in start.scale:
                near.insert(0, start.mean[list(start.scale).index(SCALES[k])])
            found[k] = _laplace(z, share, votes, SCALES[k], near[0] if near else np.zeros(z.shape[1]))
        return found[k][0]

    # The log evidence rises to one maximum and falls: climb it, then take all scales that are not negligible.
    best = len(SCALES) // 2 if start is None else int(np.searchsorted(SCALES, start.scale[start.weight.argmax()]))
    while (
        better := max((best, best + 1, best - 1), key=lambda k: evidence(k) if 0 <= k < len(SCALES) else -np.inf)
    ) != best:
        best = better
    for step in (1, -1):
        k = best
        while 0 <= k < len(SCALES) and evidence(k) - evidence(best) > _NEGLIGIBLE:
            k += step
    kept = sorted(k for k in found if evidence(k) - evidence(best) > _NEGLIGIBLE)
    log_weight = np.array([evidence(k) for k in kept])
    return Head(
        SCALES[kept],
        np.exp(log_weight - logsumexp(log_weight)),
        np.stack([found[k][1] for k in kept]),
        np.stack([found[k][2] for k in kept]),
    )


def _merged(z: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes on the same pair as one row with their mean share and their number."""
    rows: dict[bytes, int] = {}
    place = np.array([rows.setdefault(row.tobytes(), len(rows)) for row in z], dtype=int)
    votes = np.bincount(place, minlength=len(rows)).astype(float)
    first = np.unique(place, return_index=True)[1]
    return z[first], np.bincount(place, weights=share, minlength=len(rows)) / np.maximum(votes, 1), votes


def _laplace(
    z: np.ndarray, share: np.ndarray, votes: np.ndarray, scale: float, w: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence of a scale, the mode of w, and a root of the covariance there."""

    def height(w: np.ndarray) -> float:
        latent = z @ w
        fit = votes @ (share * log_expit(latent) + (1 - share) * log_expit(-latent))
        return float(fit - w @ w / (2 * scale**2))

    old, identity = height(w), np.eye(len(w))
    for _ in range(100):
        p = expit(z @ w)
        precision = (z.T * (votes * p * (1 - p))) @ z + identity / scale**2
        gradient = z.T @ (votes * (share - p)) - w / scale**2
        step = np.linalg.solve(precision, gradient)
        rise = float(gradient @ step)
        if rise < 1e-9:  # twice the nats that are left to gain
            break
        length = 1.0
        while (new := height(w + length * step)) < old + 1e-4 * length * rise and length > 1e-6:
            length /= 2
        w, old = w + length * step, new
    lower = np.linalg.cholesky(precision)
    log_evidence = old - np.log(np.diag(lower)).sum() - len(w) * np.log(scale)
    return log_evidence, w, np.linalg.inv(lower).T


def _bits(p: np.ndarray) -> np.ndarray:
    """Entropy of a choice with probability p."""
    return (entr(p) + entr(1 - p)) / np.log(2)


def _right(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Probability that a person chooses the response with the positive mean (MacKay 1992, his equation for kappa)."""
    return expit(np.abs(mean) / np.sqrt(1 + np.pi * deviation**2 / 8))
