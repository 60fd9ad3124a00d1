import itertools

import numpy as np
import pytest
from feedback.labels import make_completion, make_label
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import binom

from plaudit.feedback import biases
from plaudit.feedback.biases import doublings, effects, estimates, positivity


def test_positive_words_minus_negative_words():
    assert positivity("A Beautiful, funny film") == 2
    assert positivity("beautiful but dull; the ending is bad.") == -1
    assert positivity("") == positivity("goodness badly") == 0


def test_doublings_are_antisymmetric_and_an_empty_response_has_one_character():
    assert doublings("x" * 8, "y") == 3 == -doublings("y", "x" * 8)
    assert doublings("", "abcd") == -2


def votes_of(random, n, per_pair, spread, strengths):
    """(x, chose a, pair): `per_pair` votes on each of n pairs, or one and a second on every tenth."""
    pair = np.repeat(np.arange(n), per_pair) if per_pair > 1 else np.r_[np.arange(n), np.arange(0, n, 10)]
    taste, length, words = random.normal(0, spread, n), random.normal(0, 0.7, n), random.integers(-2, 3, n)
    x = np.stack([random.choice([-1.0, 1.0], len(pair)), length[pair], words[pair]], axis=1)
    return x, random.random(len(pair)) < expit(taste[pair] + x @ strengths), pair


@pytest.mark.parametrize(
    ("n", "per_pair", "spread", "strengths"),
    [
        (50, 5, 1.5, (0.5, 0.6, 0.3)),  # several people on each pair, who value the responses very differently
        (200, 1, 1.0, (0.5, 0.6, 0.3)),  # one person: a tenth of the pairs comes again
        (60, 3, 0.0, (0.0, 0.0, 0.0)),  # nothing matters
        (60, 4, 1.0, (-1.0, 0.0, 0.5)),
    ],
)
def test_known_biases_lie_in_their_intervals_in_95_of_100_data_sets(n, per_pair, spread, strengths):
    covered = np.zeros(3)
    for seed in range(60):
        mean, deviation = estimates(*votes_of(np.random.default_rng(seed), n, per_pair, spread, np.array(strengths)))
        covered += np.abs(mean - strengths) < biases.Z95 * deviation
    # 50 of 60 or fewer have a probability of 0.1% with intervals of 95%.
    assert (covered > binom.ppf(0.001, 60, 0.95)).all(), covered


def test_the_intervals_are_no_wider_than_they_must_be():
    """With several votes a pair, their half width is about two standard deviations of the estimates."""
    strengths = np.array([0.5, 0.6, 0.3])
    found = [estimates(*votes_of(np.random.default_rng(seed), 60, 5, 1.0, strengths)) for seed in range(40)]
    means, deviations = (np.array(column) for column in zip(*found, strict=True))
    np.testing.assert_allclose(deviations.mean(0), means.std(0), rtol=0.3)
    np.testing.assert_allclose(means.mean(0), strengths, atol=0.12)  # leaving out the taste would give 15% less


def test_without_taste_it_is_logistic_regression(monkeypatch):
    monkeypatch.setattr(biases, "_TASTES", np.zeros(1))
    x, chose_a, pair = votes_of(np.random.default_rng(0), 80, 2, 0.0, np.array([0.5, 0.6, 0.3]))
    sign = np.where(chose_a, 1, -1)

    def loss(effect):
        return -log_expit(sign * (x @ effect)).sum() + effect @ effect / (2 * biases._PRIOR**2)

    mean, deviation = estimates(x, chose_a, pair)
    np.testing.assert_allclose(mean, minimize(loss, np.zeros(3), tol=1e-9).x, atol=1e-4)
    p = expit(x @ mean)
    precision = (x.T * (p * (1 - p))) @ x + np.eye(3) / biases._PRIOR**2
    np.testing.assert_allclose(deviation, np.sqrt(np.diag(np.linalg.inv(precision))), rtol=1e-6)


def test_gradient_and_curvature_are_those_of_the_marginal_likelihood():
    x, chose_a, pair = votes_of(np.random.default_rng(1), 12, 3, 1.0, np.array([0.5, 0.6, 0.3]))
    assert (np.diff(pair[:36]) >= 0).all()  # in order, three on each
    arguments, effect, step = (1.3, x, np.where(chose_a, 1.0, -1.0), np.full(12, 3)), np.array([0.2, -0.4, 0.1]), 1e-5
    _, gradient, precision = biases._marginal(effect, *arguments)
    for i, move in enumerate(step * np.eye(3)):
        above, below = (biases._marginal(effect + sign * move, *arguments) for sign in (1, -1))
        assert gradient[i] == pytest.approx((above[0] - below[0]) / (2 * step), abs=1e-5)
        np.testing.assert_allclose(precision[i], -(above[1] - below[1]) / (2 * step), atol=1e-4)


def test_effects_of_labels():
    texts = {1: make_completion(1, "a good film"), 2: make_completion(2, "a film that goes on and on and on")}
    left = [make_label(side, 1, 2, left=side, at=i) for i, side in enumerate("ab" * 10)]
    found = {effect.name: effect for effect in effects([*left, make_label("tie"), make_label("skip")], texts)}
    assert list(found) == ["position", "length", "positivity"]
    position = found["position"]
    assert position.votes == 20
    assert position.low > 0.5
    assert position.low < position.estimate < position.high
    assert position.share > 0.8
    assert found["length"].low < 0 < found["length"].high


def test_swapping_the_names_of_the_responses_changes_nothing():
    texts = {i: make_completion(i, text) for i, text in enumerate(["good", "a much longer text", "bad", "dull film"])}
    labels = [
        make_label(outcome, a, b, left=left)
        for (a, b), outcome, left in zip(
            itertools.permutations(range(4), 2), "abababbbabba", "aababbabbaab", strict=True
        )
    ]
    other = {"a": "b", "b": "a"}
    swapped = [make_label(other[x.outcome], x.b, x.a, left=other[x.left]) for x in labels]
    for one, two in zip(effects(labels, texts), effects(swapped, texts), strict=True):
        assert one.name == two.name
        assert one.estimate == pytest.approx(two.estimate, abs=1e-6)


def test_what_cannot_be_told_is_left_out():
    texts = {1: make_completion(1, "same size"), 2: make_completion(2, "size same")}
    assert [effect.name for effect in effects([make_label("a")], texts)] == ["position"]
    same_side = [
        make_label("a", left="a", item=1),
        make_label("b", left="a", item=2),
        make_label("a", left="a", item=1),
    ]
    assert effects(same_side, texts)[0].high - effects(same_side, texts)[0].low > 2  # three votes say little
    assert effects([make_label("tie"), make_label("skip"), make_label("both_bad")], texts) == []
