"""Which pair comes next: every pair gets its votes, nobody sees one twice, and sides are balanced."""

import tempfile
from collections import Counter, defaultdict

import pytest
from feedback.projects import UUIDS, people_of, project, rows, vote
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan, Standing

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
QUIET = {"practice": 0, "repeat_share": 0.0}


def votes_by_pair(store):
    labels = [label for label in store.labels() if not label.repeat and label.outcome != "skip"]
    assert len({(label.annotator, label.item) for label in labels}) == len(labels)  # nobody twice
    return Counter(label.item for label in labels)


def counted(store):
    """Votes that each pair has or expects, counted from all assignments."""
    query = """SELECT item.id, count(assignment.id) FROM item LEFT JOIN assignment ON item_id = item.id AND repeat = 0
        AND (outcome <> 'skip' OR outcome IS NULL AND released IS NULL) GROUP BY item.id"""
    return dict(rows(store, query))


def shown(store):
    """(left, repeat, item) of everything that each annotator was shown, in order."""
    found = defaultdict(list)
    for annotator, *row in rows(store, 'SELECT annotator_id, "left", repeat, item_id FROM assignment ORDER BY id'):
        found[annotator].append(tuple(row))
    return found


@FEW
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_people_with_a_quota_give_every_pair_its_votes_in_any_order(data, overlap, votes, times, seed):
    pairs = votes * times  # so that whole blocks cover the pairs
    people = pairs * overlap // votes
    with tempfile.TemporaryDirectory() as folder:
        store = project(folder, pairs, people_of(people))
        plan = Plan(overlap, votes, seed=seed, **QUIET)
        turns = data.draw(st.permutations([person for person in range(1, people + 1) for _ in range(votes)]))
        for now, person in enumerate(turns):
            assert vote(store, person, plan, float(now))
        assert votes_by_pair(store) == dict.fromkeys(range(1, pairs + 1), overlap)
        assert all(assignment.next(store, person, plan, 999.0) is None for person in range(1, people + 1))
        store.close()


@FEW
@given(st.data(), st.integers(2, 9), st.integers(1, 3), st.integers(2, 5), st.sampled_from(["random", "uncertain"]))
def test_no_pair_gets_too_many_votes_and_none_is_left_that_somebody_present_could_give(
    data, pairs, overlap, people, strategy
):
    """People come, skip, take back, leave with a pair open, and come again, in any order."""
    with tempfile.TemporaryDirectory() as folder:
        store = project(folder, pairs, people_of(people))
        plan = Plan(overlap, data.draw(st.sampled_from([None, pairs])), strategy=strategy, **QUIET)
        now = 0.0
        acts = st.tuples(st.integers(1, people), st.sampled_from(["choose", "tie", "skip", "undo", "leave", "wait"]))
        for person, act in data.draw(st.lists(acts, max_size=30)):
            now += 601 if act == "wait" else 1
            if act == "undo" and store.labels(annotator=person):
                store.record(next(UUIDS), None, person, "undo", now=now)
            elif act == "leave":
                assignment.next(store, person, plan, now)
            elif act in ("choose", "tie", "skip"):
                vote(store, person, plan, now, act, priority=lambda item: item % 3)
        assert dict(rows(store, "SELECT * FROM tally")) == counted(store)
        present = data.draw(st.sets(st.integers(1, people), min_size=1))
        now += 601
        while sum(bool(vote(store, person, plan, now)) for person in present):
            now += 1
        assert dict(rows(store, "SELECT * FROM tally")) == counted(store)
        counts = votes_by_pair(store)
        assert max(counts.values(), default=0) <= overlap
        skipped = {(label.annotator, label.item) for label in store.labels() if label.outcome == "skip"}
        voted = {(label.annotator, label.item) for label in store.labels()} - skipped
        for item in range(1, pairs + 1):
            could = [person for person in present if (person, item) not in skipped | voted]
            assert counts[item] == overlap or not could
        store.close()


def test_thirty_people_with_forty_votes_on_240_pairs_of_whom_some_leave_and_are_replaced(opened):
    """Two leave early and are replaced while the others work; two leave late and are replaced in the end."""
    store = opened(project, 240, people_of(34))
    plan, now = Plan(overlap=5, votes=40, **QUIET), 0.0
    leaving, coming = {1: 0, 7: 3, 19: 25, 30: 38}, {31: 15, 32: 15}
    for turn in range(60):  # of a minute
        for person in range(1, 33):
            now += 60 / 32
            if person in leaving and turn == leaving[person]:
                assignment.next(store, person, plan, now)  # and closes the page
            elif turn < leaving.get(person, 60) and turn >= coming.get(person, 0):
                vote(store, person, plan, now)
    now += 700
    while sum(bool(vote(store, person, plan, now)) for person in range(31, 35)):
        now += 1
    assert votes_by_pair(store) == dict.fromkeys(range(1, 241), 5)


def test_a_pair_is_free_again_ten_minutes_after_it_was_given(opened):
    store = opened(project, 1, ("Ada", "Bea"))
    plan = Plan(**QUIET)
    first = assignment.next(store, 1, plan, 0.0)
    assert assignment.next(store, 1, plan, 1.0) == first  # the page is loaded again, which starts the ten minutes anew
    assert assignment.next(store, 2, plan, 601.0) is None
    assert assignment.next(store, 2, plan, 602.0).item == first.item
    store.record("late", first.id, 1, "tie", now=700.0)  # a late answer is an answer
    store.record("second", 2, 2, "tie", now=701.0)
    assert votes_by_pair(store) == {1: 2}


def test_who_comes_back_gets_the_open_pair_again_only_while_it_lacks_votes(opened):
    store = opened(project, 2, ("Ada", "Bea"))
    plan = Plan(**QUIET)
    first = assignment.next(store, 1, plan, 0.0)
    assert assignment.next(store, 1, plan, 5000.0) == first
    while vote(store, 2, plan, 9000.0):
        pass
    assert assignment.next(store, 1, plan, 9001.0) is None


def test_a_skipped_pair_goes_to_others_and_does_not_come_again(opened):
    store = opened(project, 1, ("Ada", "Bea"))
    plan = Plan(**QUIET)
    assert vote(store, 1, plan, 1.0, "skip")
    assert vote(store, 1, plan, 2.0) is None
    assert vote(store, 2, plan, 3.0)
    assert votes_by_pair(store) == {1: 1}


def test_the_pair_that_was_taken_back_comes_next_before_one_that_was_fetched_in_advance(opened):
    store = opened(project, 3)
    plan = Plan(**QUIET)
    first = assignment.next(store, 1, plan, 1.0)
    second = assignment.next(store, 1, plan, 1.0, beside=[first.id])
    assert second.id != first.id
    store.record("a", first.id, 1, "tie", now=2.0)
    assert assignment.next(store, 1, plan, 2.0) == second
    store.record("b", None, 1, "undo", now=3.0)
    again = assignment.next(store, 1, plan, 3.0)
    assert (again.id, again.answer) == (first.id, None)


@FEW
@given(st.integers(20, 40), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 4), st.integers(0, 9))
def test_sides_balance_and_repetitions_swap_them_some_pairs_later(pairs, share, gold, seed):
    with tempfile.TemporaryDirectory() as folder:
        store = project(folder, pairs, people_of(2), gold=gold, practice=3)
        plan = Plan(overlap=2, repeat_share=share, practice=2, gold_share=0.2, seed=seed)
        now = 0.0
        while sum(bool(vote(store, person, plan, now)) for person in (1, 2)):
            now += 1
        for asked in shown(store).values():
            for some in (asked, [a for a in asked if a[1]], [a for a in asked if not a[1]]):
                for end in range(len(some) + 1):  # at every moment
                    lefts = Counter(left for left, *_ in some[:end])
                    assert abs(lefts["a"] - lefts["b"]) <= 1
            repeated = [(place, left, item) for place, (left, repeat, item) in enumerate(asked) if repeat]
            main = [item for _, repeat, item in asked if not repeat and item <= pairs]
            wanted = int(share * len(main))  # in the end, some lie too near or on the wrong side
            assert wanted - max(1, wanted // 2) <= len(repeated) <= wanted
            for place, left, item in repeated:
                before = next(i for i, (_, _, one) in enumerate(asked) if one == item)
                assert asked[before][0] != left
                assert place - before > 5
        assert len({tuple(left for left, *_ in asked) for asked in shown(store).values()}) == 2  # not all the same
        store.close()


@pytest.mark.parametrize(("share", "places"), [(1.0, [2, 3]), (0.25, [5, 9]), (0.0, [])])
def test_practice_comes_first_and_gold_pairs_as_the_plan_says(opened, share, places):
    store = opened(project, 10, gold=2, practice=3)
    plan = Plan(practice=2, gold_share=share, repeat_share=0.0)
    asked = []
    while found := vote(store, 1, plan, 1.0):
        asked.append(found.purpose)
    assert asked[:2] == ["practice", "practice"]
    assert asked.count("practice") == 2
    assert [place for place, purpose in enumerate(asked) if purpose == "gold"] == places
    assert asked.count("train") == 10


def test_the_head_chooses_except_for_a_share_of_random_pairs(opened):
    store = opened(project, 60)
    plan = Plan(strategy="uncertain", random_share=0.3, **QUIET)
    best, order = 60, []
    while found := vote(store, 1, plan, 1.0, priority=float):
        order.append(found.item)
    seen, chosen = set(), 0
    for item in order:
        while best in seen:
            best -= 1
        chosen += item == best
        seen.add(item)
    assert sorted(order) == list(range(1, 61))
    assert 0.45 * 60 <= chosen < 60  # 70% in expectation, and some random ones are the best by chance


def test_a_plan_asks_about_its_purpose_and_round_only(opened):
    store = opened(project, 2, eval=3)
    a = store.add_completion("train 0", "another")
    store.add_item(a, 1, "train", round=1)
    for plan, answered, left in ((Plan(purpose="eval"), 0, 3), (Plan(round=1), 0, 1), (Plan(), 1, 2)):
        assert assignment.standing(store, 1, plan) == Standing(answered, left)
        count = 0
        while found := vote(store, 1, plan, 1.0):
            assert found.purpose == plan.purpose
            count += 1
        assert count == left
        assert assignment.standing(store, 1, plan) == Standing(answered + left, 0)


def test_standing_counts_the_open_pair_until_somebody_else_has_it(opened):
    store, plan = opened(project, 3, ("Ada", "Bea")), Plan(**QUIET)
    vote(store, 1, plan, 1.0)
    vote(store, 1, plan, 2.0, "skip")
    assignment.next(store, 1, plan, 3.0)
    assert assignment.standing(store, 1, plan) == Standing(1, 1)
    assert assignment.standing(store, 1, Plan(votes=1, **QUIET)) == Standing(1, 0)
    while vote(store, 2, plan, 700.0):
        pass
    assert assignment.standing(store, 1, plan) == Standing(1, 0)


def test_an_assignment_does_not_tell_what_wrote_the_responses(opened):
    store = opened(project, 6)
    plan = Plan(**QUIET)
    lefts = set()
    while asked := vote(store, 1, plan, 1.0):
        assert "model" not in repr(asked)
        lefts.add(asked.left.split()[0])
        assert {asked.left.split()[0], asked.right.split()[0]} == {"good", "bad"}
    assert lefts == {"good", "bad"}
