import numpy as np
import pytest
from feedback.labels import make_completion, make_label
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from plaudit.errors import FeedbackError
from plaudit.feedback import statistics
from plaudit.feedback.statistics import Share, agreement, krippendorff_alpha, win_rate
from plaudit.maths.intervals import wilson

# Krippendorff 2011, section C: 4 observers, 12 units, categories 1 to 5, gaps.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def test_alpha_of_the_published_example():
    counts = np.array(
        [[unit.count(str(category)) for category in range(1, 6)] for unit in zip(*OBSERVERS, strict=True)]
    )
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)


def test_alpha_by_hand():
    # Two people, four pairs, ratings aa, aa, bb, ab: observed disagreement 2 of 8. With 5 a and 3 b, expected
    # 2 * 5 * 3 / (8 * 7) = 30 / 56. Alpha = 1 - (2 / 8) / (30 / 56) = 8 / 15.
    assert krippendorff_alpha(np.array([[2, 0], [2, 0], [0, 2], [1, 1]])) == pytest.approx(8 / 15)
    assert krippendorff_alpha(np.array([[2, 0], [2, 0], [0, 2], [1, 1], [1, 0]])) == pytest.approx(8 / 15)  # a gap
    assert krippendorff_alpha(np.array([[3, 0], [2, 0]])) is None  # nothing could be disagreed about
    assert krippendorff_alpha(np.zeros((0, 4))) is None


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_alpha_is_one_less_the_ratio_of_disagreements_over_all_pairs_of_votes(rows):
    """By enumeration of pairs of votes, not by coincidence matrices."""
    rows = [row for row in rows if sum(row) >= 2]
    units = [[category for category, n in enumerate(row) for _ in range(n)] for row in rows]
    n = sum(map(len, units))
    every = [vote for unit in units for vote in unit]
    observed = sum(sum(x != y for x in unit for y in unit) / (len(unit) - 1) for unit in units) / max(n, 1)
    expected = sum(x != y for x in every for y in every) / max(n * (n - 1), 1)
    alpha = krippendorff_alpha(np.array(rows).reshape(-1, 3))
    assert alpha == (pytest.approx(1 - observed / expected) if expected else None)


def test_agreement_of_people():
    answers = {1: "aab-t", 2: "abb-t", 3: "a-baa"}  # of three people on five items; t is a tie, - a gap
    names = {"a": "a", "b": "b", "t": "tie"}
    labels = [
        make_label(names[answer], annotator=who, item=item)
        for who, row in answers.items()
        for item, answer in enumerate(row)
        if answer != "-"
    ]
    noise = [make_label("skip", annotator=3, item=1), make_label("b", annotator=1, item=0, repeat=True)]
    found = agreement(labels + noise)
    # Items 0 and 2: three pairs of votes agree on each. Item 1: none of one. Item 4: one of three. Item 3 has one vote.
    assert (found.same.hits, found.same.of, found.items, found.people) == (7, 10, 4, 3)
    counts = np.array([[3, 0, 0], [1, 1, 0], [0, 3, 0], [1, 0, 2]])
    assert found.alpha == krippendorff_alpha(counts)
    low, high = found.interval
    assert low < found.alpha < high
    assert statistics.two_people(labels + noise, 1, 2) == Share(3, 4)
    assert statistics.two_people(labels + noise, 1, 3) == Share(2, 3)
    disputed = statistics.disputed(labels + noise)
    assert disputed == [(4, {"a": 1, "tie": 2}), (1, {"a": 1, "b": 1})]
    assert agreement([]) == statistics.Agreement(Share(0, 0), None, None, 0, 0)


def test_the_interval_of_alpha_covers_it():
    """Three people who each say what is right in 80% of 80 pairs: alpha is (2 * 0.8 - 1)^2 = 0.36."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = random.random(80) < 0.5
        a = (truth ^ (random.random((3, 80)) > 0.8)).sum(0)
        labels = [
            make_label("a" if place < n else "b", annotator=place, item=item)
            for item, n in enumerate(a)
            for place in range(3)
        ]
        low, high = agreement(labels).interval
        covered += low < 0.36 < high
    assert covered > binom.ppf(0.001, 60, 0.95)


def test_sides_lengths_gold_and_consistency():
    texts = {1: make_completion(1, "four"), 2: make_completion(2, "longer"), 3: make_completion(3, "five")}
    labels = [
        make_label("a", 1, 2, left="a", gold="a", purpose="gold"),
        make_label("b", 1, 2, left="a", annotator=2, gold="a", purpose="gold"),
        make_label("a", 1, 3, left="b"),
        make_label("tie", 2, 3, left="b"),
        make_label("skip", 2, 3, left="b", annotator=2),
        make_label("b", 1, 2, left="b", annotator=2, repeat=True),
        make_label("b", 1, 3, left="a", repeat=True),
        make_label("tie", 2, 3, left="a", repeat=True),
    ]
    assert statistics.always_left(labels) == Share(2, 5)
    assert statistics.always_longer(labels, texts) == Share(0 + 1 + 0.5 + 1 + 0.5, 5)
    assert statistics.gold(labels) == Share(1, 2)
    assert statistics.self_consistency(labels) == Share(2, 3)  # the second of the three pairs that came again was not
    assert Share(0, 0).value is None
    assert Share(0, 0).interval is None
    assert Share(1, 4).interval == wilson(1, 4)


def test_the_next_choice_is_right_half_right_or_wrong_and_repeats_do_not_count():
    labels = [make_label(x) for x in ("a", "b", "a", "tie", "skip")] + [make_label("a", repeat=True)]
    assert statistics.next_choice(labels, [0.9, 0.7, 0.5, 0.9, 0.9, 0.9]) == Share(1.5, 3)


def test_pace():
    labels = [make_label("a", active_ms=1000 * s) for s in (2, 4, 6, 8, 100)] + [make_label("skip", active_ms=1)]
    found = statistics.pace(labels)
    assert (found.votes, found.median, found.quartiles) == (5, 6, (4, 8))
    assert statistics.pace([make_label("skip")]) is None


# Win rates: responses 1, 3, 5, ... are by model 7, responses 2, 4, 6, ... by model 8.

TEXTS = {i: make_completion(i, generator=7 if i % 2 else 8) for i in range(1, 500)}


def test_win_rate_counts_and_its_interval_on_decisive_votes():
    labels = [make_label("a", 1, 2), make_label("b", 4, 3), make_label("b", 5, 6), make_label("tie", 7, 8)]
    ignored = [make_label("skip", 1, 2), make_label("a", 1, 2, repeat=True), make_label("a", 1, 3)]
    found = win_rate(labels + ignored, TEXTS, 7, 8)
    assert (found.wins, found.ties, found.losses, found.prompts) == (2, 1, 1, 4)
    assert found.decisive == Share(2, 3)
    assert found.rate == 2.5 / 4
    other = win_rate(labels, TEXTS, 8, 7)
    assert (other.wins, other.losses, other.rate) == (1, 2, 1.5 / 4)
    assert other.interval == pytest.approx([1 - end for end in found.interval[::-1]], abs=0.04)  # both are drawn
    empty = win_rate([], TEXTS, 7, 8)
    assert (empty.rate, empty.interval, empty.more_votes) == (None, None, None)
    with pytest.raises(FeedbackError, match="two models"):
        win_rate(labels, TEXTS, 7, 7)


def votes_on_prompts(random, prompts, per_prompt, rate, spread, ties):
    """Votes on one pair of each prompt; the models' rate differs from prompt to prompt by `spread` either way."""
    labels = []
    for prompt in range(prompts):
        here = rate + spread * random.choice([-1, 1])
        for _ in range(per_prompt):
            tie, win = random.random(2)
            outcome = "tie" if tie < ties else "a" if win < here else "b"
            labels.append(make_label(outcome, 2 * prompt + 1, 2 * prompt + 2, prompt=prompt))
    return labels


@pytest.mark.parametrize(
    ("prompts", "per_prompt", "rate", "spread", "ties"),
    [(30, 1, 0.6, 0.0, 0.0), (20, 5, 0.6, 0.3, 0.2), (12, 1, 0.85, 0.0, 0.0), (100, 3, 0.5, 0.5, 0.1)],
)
def test_the_interval_clustered_by_prompt_covers_the_rate(prompts, per_prompt, rate, spread, ties):
    expected, covered = 0.5 * ties + rate * (1 - ties), 0
    for seed in range(100):
        found = win_rate(
            votes_on_prompts(np.random.default_rng(seed), prompts, per_prompt, rate, spread, ties), TEXTS, 7, 8
        )
        covered += found.interval[0] <= expected <= found.interval[1]
    assert covered > binom.ppf(0.001, 100, 0.95), covered


def test_votes_on_one_prompt_go_together():
    """Twenty votes on each of ten prompts, all alike within a prompt, are ten votes and not two hundred."""
    alike = [make_label("a" if i % 2 else "b", 2 * i + 1, 2 * i + 2, prompt=i) for i in range(10) for _ in range(20)]
    single = alike[::20]
    (low, high), (one_low, one_high) = (win_rate(x, TEXTS, 7, 8).interval for x in (alike, single))
    assert high - low == pytest.approx(one_high - one_low, abs=0.02)


def test_the_votes_that_are_said_to_be_missing_give_five_points():
    random = np.random.default_rng(5)
    found = win_rate(votes_on_prompts(random, 40, 2, 0.6, 0.2, 0.1), TEXTS, 7, 8)
    prompts = 40 + round(found.more_votes / 2)
    texts = {i: make_completion(i, generator=7 if i % 2 else 8) for i in range(1, 2 * prompts + 1)}
    later = win_rate(votes_on_prompts(random, prompts, 2, 0.6, 0.2, 0.1), texts, 7, 8)
    assert (later.interval[1] - later.interval[0]) / 2 == pytest.approx(0.05, abs=0.006)
    assert later.more_votes < 0.3 * found.more_votes


def test_an_interval_is_never_a_point():
    unanimous = win_rate([make_label("a", 1, 2), make_label("a", 3, 4), make_label("a", 5, 6)], TEXTS, 7, 8)
    assert unanimous.rate == 1
    assert unanimous.interval[0] < 0.8
    assert unanimous.interval[1] == 1
    assert unanimous.more_votes > 50
