import itertools
import time

import numpy as np
import pytest
from feedback.labels import make_label
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import binomtest, norm
from threadpoolctl import threadpool_limits

from plaudit.errors import FeedbackError
from plaudit.feedback import head as module
from plaudit.feedback.head import Head, Learner, Pool, fit


def make_pool(n=40, width=12, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, width)) * np.geomspace(1, 0.2, width)
    return Pool.of(dict(enumerate(x.astype(np.float32))))


def make_votes(pool, n, scale=2.0, seed=0, active=3):
    """Random pairs, their differences, true log odds of standard deviation `scale`, and one vote on each."""
    random = np.random.default_rng((seed, n))
    ids = list(pool.place)
    pairs = [tuple(int(i) for i in random.choice(ids, 2, replace=False)) for _ in range(n)]
    z, w = pool.differences(pairs), np.zeros(pool.points.shape[1])
    w[:active] = np.random.default_rng(seed).standard_normal(active)
    w *= scale / np.sqrt(2 * (pool.points @ w).var())
    latent = z @ w
    return pairs, z, latent, (random.random(n) < expit(latent)).astype(float)


def one_scale(mean, deviation):
    """A head of one direction and one scale with this posterior."""
    return Head(np.array([1.0]), np.array([1.0]), np.array([[mean]]), np.array([[[deviation]]]))


# The space of the responses


def test_points_keep_all_distances_when_there_are_few_directions():
    x = np.random.default_rng(1).standard_normal((9, 5))
    pool = Pool.of(dict(enumerate(x)))
    standardised = (x - x.mean(0)) / x.std(0)
    pairs = list(itertools.combinations(range(9), 2))
    true = np.array([np.sum((standardised[a] - standardised[b]) ** 2) for a, b in pairs])
    ours = (pool.differences(pairs) ** 2).sum(1)
    np.testing.assert_allclose(ours / ours.mean(), true / true.mean(), rtol=1e-9)
    assert pool.kept == pytest.approx(1)


@pytest.mark.parametrize(("n", "width"), [(30, 200), (200, 30), (300, 200)])
def test_a_typical_squared_distance_is_one_and_the_widest_directions_are_kept(n, width):
    x = np.random.default_rng(2).standard_normal((n, width)).astype(np.float32)
    pool = Pool.of(dict(enumerate(x)))
    assert pool.points.shape == (n, min(n - 1, width, module.DIRECTIONS))
    # The mean over all ordered pairs, a response with itself included, is the share of the variance that is kept.
    assert 2 * (pool.points**2).sum(1).mean() == pytest.approx(pool.kept)
    assert (pool.kept < 1) == (min(n - 1, width) > module.DIRECTIONS)


def test_activations_that_are_equal_in_all_responses_do_not_matter():
    x = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
    constant = np.hstack([x, np.full((6, 1), 7, np.float32)])
    pairs = list(itertools.combinations(range(6), 2))
    one, other = (Pool.of(dict(enumerate(rows))).differences(pairs) for rows in (x, constant))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ({1: np.zeros(3), 2: np.zeros(4)}, "widths"),
        ({}, "widths"),
        ({1: np.array([0.0, np.nan]), 2: np.zeros(2)}, "finite"),
    ],
)
def test_unusable_activations_are_refused(features, match):
    with pytest.raises(FeedbackError, match=match):
        Pool.of(features)


def test_a_response_without_activations_is_named():
    with pytest.raises(FeedbackError, match="response 99 has no activations"):
        make_pool().differences([(1, 99)])


# The posterior


@pytest.mark.parametrize("n", [1, 5, 60])
def test_the_mode_is_that_of_a_general_optimizer(n):
    pool = make_pool()
    _, z, _, share = make_votes(pool, n)
    share[::4] = 0.5
    scale = 1.7
    _, mode, root = module._laplace(*module._merged(z, share), scale, np.zeros(z.shape[1]))

    def loss(w):
        f = z @ w
        return -(share * log_expit(f) + (1 - share) * log_expit(-f)).sum() + w @ w / (2 * scale**2)

    np.testing.assert_allclose(mode, minimize(loss, np.zeros(z.shape[1]), method="BFGS", tol=1e-9).x, atol=1e-4)
    p = expit(z @ mode)
    precision = (z.T * (p * (1 - p))) @ z + np.eye(len(mode)) / scale**2
    np.testing.assert_allclose(root @ root.T @ precision, np.eye(len(mode)), atol=1e-8)


def test_the_evidence_is_the_integral_of_the_likelihood_over_the_prior():
    z = np.random.default_rng(4).standard_normal((25, 1))
    share = (np.random.default_rng(5).random(25) < expit(2 * z[:, 0])).astype(float)

    def likelihood(w, scale):
        f = z[:, 0] * w
        return np.exp((share * log_expit(f) + (1 - share) * log_expit(-f)).sum()) * norm.pdf(w, scale=scale)

    for scale in (0.3, 1.0, 3.0):
        exact = np.log(quad(likelihood, -15, 15, args=(scale,), points=[0, 1, 2, 3])[0])
        assert module._laplace(*module._merged(z, share), scale, np.zeros(1))[0] == pytest.approx(exact, abs=0.03)


def test_a_tie_is_half_a_vote_for_each_side_and_votes_on_one_pair_add_up():
    z = np.random.default_rng(6).standard_normal((4, 3))
    ties = fit(np.concatenate([z, z]), np.full(8, 0.5))
    opposed = fit(np.concatenate([z, z]), np.repeat([1.0, 0.0], 4))
    np.testing.assert_allclose(ties.mean, opposed.mean, atol=1e-9)
    np.testing.assert_allclose(ties.weight, opposed.weight, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 30), st.integers(0, 1000), st.data())
def test_which_response_is_called_a_does_not_matter(n, seed, data):
    _, z, _, share = make_votes(make_pool(), max(n, 1), seed=seed)
    z, share = z[:n], share[:n]
    flip = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    one = fit(z, share)
    other = fit(np.where(flip[:, None], -z, z), np.where(flip, 1 - share, share))
    new = make_pool().differences([(0, 1), (2, 3)])
    np.testing.assert_allclose(one.probability(new), other.probability(new), atol=1e-6)
    np.testing.assert_allclose(one.probability(-new), 1 - one.probability(new), atol=1e-9)
    np.testing.assert_allclose(one.information(-new), one.information(new), atol=1e-9)


def test_where_a_fit_starts_does_not_change_its_result():
    _, z, _, share = make_votes(make_pool(), 120)
    cold = fit(z, share)
    for before in (1, 60, 119):
        warm = fit(z, share, fit(z[:before], share[:before]))
        np.testing.assert_array_equal(warm.scale, cold.scale)
        np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-6)
        np.testing.assert_allclose(warm.mean, cold.mean, atol=1e-3)


def test_without_votes_nothing_is_known():
    pool = make_pool()
    before = fit(np.zeros((0, pool.points.shape[1])), np.zeros(0))
    assert before.weight == pytest.approx(np.full(len(module.SCALES), 1 / len(module.SCALES)))
    np.testing.assert_allclose(before.probability(pool.differences([(0, 1)])), 0.5)


def test_the_evidence_finds_the_scale_and_probabilities_come_true():
    """Of pairs to which it gives 70%, 70% are chosen."""
    right, said, scales = [], [], {0.3: [], 4.0: []}
    for seed in range(12):
        pool = make_pool(60, 30, seed)
        for scale, found in scales.items():
            _, z, latent, share = make_votes(pool, 400, scale, seed, active=30)
            head = fit(z[:200], share[:200])
            found.append(head.weight @ head.scale)
            p = head.probability(z[200:])
            right.append(np.where(p > 0.5, expit(latent[200:]), expit(-latent[200:])))
            said.append(np.maximum(p, 1 - p))
    assert np.mean(scales[0.3]) < 1 < np.mean(scales[4.0])
    right, said = np.concatenate(right), np.concatenate(said)
    for low, high in itertools.pairwise([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]):
        inside = (said >= low) & (said < high)
        assert right[inside].mean() == pytest.approx(said[inside].mean(), abs=0.04), (low, high)


# What a vote tells


@pytest.mark.parametrize("mean", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("deviation", [0.1, 1.0, 4.0])
def test_probability_and_information_are_their_integrals(mean, deviation):
    head, z = one_scale(mean, deviation), np.array([[1.0]])

    def entropy(p):
        return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))

    def expected(function):
        return quad(lambda f: function(expit(f)) * norm.pdf(f, mean, deviation), mean - 8 * deviation,
                    mean + 8 * deviation, points=[0.0, mean])[0]  # fmt: skip

    p = expected(lambda p: p)
    assert head.probability(z)[0] == pytest.approx(p, abs=5e-4)
    assert head.information(z)[0] == pytest.approx(entropy(p) - expected(entropy), abs=5e-4)
    assert np.ravel(head.latent(z)) == pytest.approx([mean, deviation])


def test_a_pair_on_which_people_simply_disagree_tells_nothing():
    known_tie, open_question = one_scale(0.0, 1e-3), one_scale(0.0, 3.0)
    z = np.array([[1.0]])
    assert known_tie.probability(z)[0] == pytest.approx(open_question.probability(z)[0]) == pytest.approx(0.5)
    assert known_tie.information(z)[0] == pytest.approx(0, abs=1e-6)
    assert open_question.information(z)[0] > 0.3


# What more votes would change


def test_the_outlook_is_what_happens_on_average_when_more_people_vote():
    """People are drawn from the posterior after 40 votes; 80 more votes of each change what the outlook expects."""
    pool = make_pool(30, 4)
    _, z, _, share = make_votes(pool, 400, 1.5, seed=3)
    before, all_pairs = fit(z[:40], share[:40]), z[100:]
    outlook = before.outlook(all_pairs, 80)
    random, seen = np.random.default_rng(0), []
    old = before.probability(all_pairs) > 0.5
    for _ in range(60):
        k = random.choice(len(before.weight), p=before.weight)
        w = before.mean[k] + before.root[k] @ random.standard_normal(z.shape[1])
        asked = all_pairs[random.integers(len(all_pairs), size=80)]
        cast = (random.random(80) < expit(asked @ w)).astype(float)
        new = fit(np.concatenate([z[:40], asked]), np.r_[share[:40], cast], before).probability(all_pairs) > 0.5
        truth = expit(all_pairs @ w)
        seen.append([(old != new).mean(), *(np.where(side, truth, 1 - truth).mean() for side in (old, new))])
    expected = [outlook.changed, outlook.accuracy, outlook.accuracy_then]
    np.testing.assert_allclose(np.mean(seen, 0), expected, atol=0.03)  # 60 people: errors of about 0.01
    assert outlook.accuracy_then > outlook.accuracy + 0.01


def test_further_votes_are_said_not_to_pay_only_where_the_learning_curve_is_flat():
    """On simulated people whose votes are learnable easily, hardly or not at all."""
    stopped, went_on = [], []
    for (active, scale), seed in itertools.product([(1, 3.0), (8, 2.0), (40, 3.0), (8, 0.5), (8, 0.0)], range(6)):
        pool = make_pool(200, 40, seed)
        _, z, latent, share = make_votes(pool, 3600, scale, seed, active)
        accuracy, outlooks, head = {}, {}, None
        for n in (50, 100, 200, 400, 800, 1600, 3200):
            head = fit(z[:n], share[:n], head)
            chosen = head.latent(z[3200:])[0] > 0
            accuracy[n] = np.where(chosen, expit(latent[3200:]), expit(-latent[3200:])).mean()
            outlooks[n] = head.outlook(z[3200:], max(100, n))
        for n in (100, 200, 400, 800, 1600):
            (stopped if outlooks[n].enough else went_on).append(accuracy[2 * n] - accuracy[n])
    gains = f"{len(stopped)} stops; twice the votes gain {np.mean(stopped):.4f} after one, else {np.mean(went_on):.4f}"
    assert len(stopped) > 30, gains
    assert np.mean(stopped) < 0.01, gains
    assert np.quantile(stopped, 0.9) < 0.02, gains
    assert np.mean(went_on) > 0.01, gains
    assert np.mean(went_on) > 2.5 * np.mean(stopped), gains


# Learning as people vote


def label_votes(pairs, shares):
    name = {1.0: "a", 0.0: "b", 0.5: "tie"}
    return [make_label(name[share], a, b, at=i) for i, ((a, b), share) in enumerate(zip(pairs, shares, strict=True))]


def test_each_vote_is_predicted_from_the_votes_before_it():
    pool = make_pool()
    pairs, z, _, share = make_votes(pool, 70)
    learner = Learner(pool)
    learner.follow(label_votes(pairs, share))
    for n in (0, 1, 20, 31):
        assert learner.predicted[n] == pytest.approx(fit(z[:n], share[:n]).probability(z[n : n + 1])[0], abs=1e-5)
    assert learner.predicted[0] == pytest.approx(0.5)
    for n in (45, 69):
        used = module._basis(n)
        assert 15 / 16 * n <= used <= n
        expected = fit(z[:used], share[:used]).probability(z[n : n + 1])[0]
        assert learner.predicted[n] == pytest.approx(expected, abs=1e-5)
    other = share.copy()
    other[50:] = 1 - other[50:]
    later = Learner(pool)
    later.follow(label_votes(pairs, other))
    np.testing.assert_allclose(later.predicted[:51], learner.predicted[:51], atol=1e-6)  # none knows its own future


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["vote", "undo", "revise"]), st.integers(0, 39)), max_size=25))
def test_learning_vote_by_vote_with_undo_and_revise_is_learning_all_at_once(steps):
    pool = make_pool()
    pairs, _, _, share = make_votes(pool, 40)
    labels, made = [], label_votes(pairs, share)
    learner = Learner(pool)
    for step, place in steps:
        if step == "vote":
            labels.append(made[place])
        elif labels and step == "undo":
            labels.pop()
        elif labels:
            old = labels.pop(place % len(labels))
            labels.append(make_label("tie", old.a, old.b))
        learner.follow(labels)
        learner.head  # noqa: B018  (as the page does after each vote)
    fresh = Learner(pool)
    fresh.follow(labels)
    np.testing.assert_allclose(learner.predicted, fresh.predicted, atol=1e-5)
    new = pool.differences([(0, 1), (5, 7)])
    np.testing.assert_allclose(learner.head.probability(new), fresh.head.probability(new), atol=1e-5)


def test_both_bad_is_a_tie_and_the_most_telling_item_is_named():
    pool = make_pool()
    tie, bad = Learner(pool), Learner(pool)
    tie.follow([make_label("tie", 0, 1), make_label("a", 2, 3)])
    bad.follow([make_label("both_bad", 0, 1), make_label("a", 2, 3)])
    z = pool.differences([(4, 5), (6, 7)])
    np.testing.assert_array_equal(tie.head.probability(z), bad.head.probability(z))
    bits = tie.information({11: (4, 5), 12: (6, 7)})
    assert list(bits.values()) == pytest.approx(tie.head.information(z).tolist())
    assert tie.outlook([(4, 5), (6, 7)]) == tie.head.outlook(z, module.AHEAD)


def test_asking_what_tells_most_learns_faster_where_pairs_differ_in_what_they_tell():
    """A tenth of the responses differ in what people value; the others do so by hardly anything."""
    better = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        x = random.standard_normal((100, 6)) * np.where(np.arange(100) < 10, 1.0, 0.05)[:, None]
        pool = Pool.of(dict(enumerate(x)))
        pairs = [tuple(int(i) for i in random.choice(100, 2, replace=False)) for _ in range(300)]
        z = pool.differences(pairs)
        latent = 3 * z @ random.standard_normal(z.shape[1])
        votes = (random.random(300) < expit(latent)).astype(float)
        accuracy = {}
        for strategy in ("random", "uncertain"):
            asked = [int(i) for i in random.permutation(300)[:2]]
            while len(asked) < 40:
                head = fit(z[asked], votes[asked])
                open_pairs = np.setdiff1d(np.arange(300), asked)
                bits = head.information(z[open_pairs])
                best = bits.argmax() if strategy == "uncertain" else random.integers(len(open_pairs))
                asked.append(int(open_pairs[best]))
            chosen = fit(z[asked], votes[asked]).latent(z)[0] > 0
            accuracy[strategy] = np.where(chosen, expit(latent), expit(-latent)).mean()
        better.append(accuracy["uncertain"] - accuracy["random"])
    assert np.mean(better) > 0.01, better
    assert binomtest(sum(gain > 0 for gain in better), len(better), alternative="greater").pvalue < 0.15, better


def test_a_refit_after_each_vote_takes_well_under_100_ms():
    """Processor time of one core: 500 votes on different pairs, activations of width 1,024."""
    random = np.random.default_rng(0)
    x = random.standard_normal((800, 1024)).astype(np.float32)
    pool = Pool.of(dict(enumerate(x)))
    pairs, z, _, share = make_votes(pool, 500, active=60)
    assert len({frozenset(pair) for pair in pairs}) > 480
    before = fit(z[:-1], share[:-1])
    seconds = []
    with threadpool_limits(1):
        for _ in range(9):
            start = time.process_time()
            fit(z, share, before)
            seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1, seconds  # the others had to share the machine's caches


@pytest.mark.parametrize("x", [np.ones((4, 3)), np.zeros((1, 3)), np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 2.0]])])
def test_responses_that_cannot_be_told_apart_are_no_problem(x):
    pool = Pool.of(dict(enumerate(x)))
    last = len(x) - 1
    learner = Learner(pool)
    learner.follow([make_label("a", last, 0), make_label("a", last, 0)])
    chance = learner.head.probability(pool.differences([(last, 0)]))[0]
    assert chance > 0.5 if len(x) == 3 else chance == pytest.approx(0.5)
    outlook = learner.outlook([(last, 0)])
    assert 0 <= outlook.changed <= 1
    assert 0.5 - 1e-9 <= outlook.accuracy <= outlook.accuracy_then + 1e-9 <= 1
    assert learner.information({5: (last, 0)})[5] >= -1e-9
