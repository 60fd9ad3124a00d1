"""What people did, as events, and the answers that are valid now."""

import tempfile

import numpy as np
import pytest
from feedback.projects import project, rows, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import FeedbackError
from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan
from plaudit.feedback.store import Store
from plaudit.records import Message

PLAN = Plan(practice=0, repeat_share=0.0)


@pytest.fixture
def store(opened):
    return opened(project, 3, ("Ada", "Bea"))


def test_what_is_added_is_read_again_and_equal_things_are_one(opened):
    store = opened(Store.open)
    prompt = (Message("system", "Be brief."), Message("user", "Größe 🙂 \u202e?\x00"))
    generator = store.add_generator("movie", "abc", "sft", {"step": 3})
    assert store.add_generator("movie", "abc", "sft", {"step": 3}) == generator
    assert store.generators()[generator].details == {"step": 3}
    features = np.arange(4, dtype=np.float64) / 3
    a = store.add_completion(prompt, "<script>", generator, [5, 6], {"temperature": 0.7}, 9)
    assert store.add_completion(prompt, "<script>", generator, [5, 6], {"temperature": 0.7}, 9, features) == a
    assert store.add_completion(prompt, "<script>", generator, [5, 6], {"temperature": 0.7}, 10) != a
    b = store.add_completion(prompt, "", None)
    found = store.completions([a, b, 99])
    assert list(found) == [a, b]
    one = found[a]
    assert (one.text, one.token_ids, one.sampling) == ("<script>", (5, 6), {"temperature": 0.7})
    assert (one.seed, one.length, one.generator) == (9, 8, generator)
    assert one.features.dtype == np.float32
    assert one.features.tolist() == features.astype(np.float32).tolist()
    assert (found[b].token_ids, found[b].sampling, found[b].features) == (None, None, None)
    assert store.prompts([one.prompt]) == {one.prompt: prompt}
    item = store.add_item(a, b, now=5.0)
    assert store.add_item(b, a) == item
    assert store.add_item(b, a, round=1) != item
    first = store.items("train")[0]
    assert (first.a, first.b, first.purpose, first.created) == (a, b, "train", 5.0)
    assert store.items("eval") == []
    ids = [store.add_completion("many", str(i)) for i in range(3)]
    assert len(store.completions([*ids] * 400 + [*range(1000, 3000)])) == 3  # more than one query takes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.add_item(1, 1), "same text"),
        (lambda s: s.add_item(1, s.add_completion("train 0", "good 0", seed=77)), "same text"),
        (lambda s: s.add_item(1, 4), "different prompts"),
        (lambda s: s.add_item(1, 99), "not both are here"),
        (lambda s: s.add_item(1, 2, "gold"), "known answer"),
        (lambda s: s.add_annotator("  ", "person", "x"), "name is needed"),
        (lambda s: s.add_annotator(" Ada ", "person", "x"), "somebody else has the name 'Ada'"),
        (lambda s: s.assignment(1, 1), "not asked this"),
    ],
)
def test_wrong_input_is_refused_in_one_line(store, make, message):
    before = rows(store, "SELECT count(*) FROM item")
    with pytest.raises(FeedbackError, match=message) as error:
        make(store)
    assert "\n" not in str(error.value)
    assert rows(store, "SELECT count(*) FROM item") == before


def test_a_secret_opens_the_page_and_is_not_stored(store):
    assert store.annotator("secret of Ada").name == "Ada"
    assert store.annotator("secret of ada") is None
    assert store.annotator("") is None
    store.close()
    assert b"secret of" not in b"".join(path.read_bytes() for path in store.folder.glob("feedback.db*"))


@pytest.mark.parametrize(
    ("kind", "side", "outcome"),
    [("choose", "left", "left"), ("choose", "right", "right")] + [(k, None, k) for k in ("tie", "both_bad", "skip")],
)
def test_an_answer_is_about_the_responses_wherever_they_stood(store, kind, side, outcome):
    for now in range(3):
        asked = assignment.next(store, 1, PLAN, float(now))
        event = store.record(f"u{now}", asked.id, 1, kind, side, 2, 30, 40, now=50.0 + now)
        chosen = {"left": asked.left, "right": asked.right}.get(side)
        label = store.labels()[-1]
        texts = store.completions([label.a, label.b])
        expected = kind if chosen is None else "a" if texts[label.a].text == chosen else "b"
        assert event.outcome == label.outcome == expected
        assert (texts[label.a].text == asked.left) == (label.left == "a")
        assert label.strength == (2 if kind == "choose" else 1)
        assert (label.ms, label.wall_ms, label.at) == (30, 40, 50.0 + now)
        assert store.assignment(asked.id, 1).answer == outcome
    assert {label.left for label in store.labels()} == {"a", "b"}


def test_a_request_that_is_sent_again_counts_once_and_another_answer_under_its_uuid_is_refused(store):
    asked = assignment.next(store, 1, PLAN, 0.0)
    first = store.record("u", asked.id, 1, "choose", "left", now=1.0)
    assert store.record("u", asked.id, 1, "choose", "left", now=9.0) == first
    for other in (("choose", "right"), ("tie", None), ("choose", "left", 2)):
        with pytest.raises(FeedbackError, match="sent before with another answer"):
            store.record("u", asked.id, 1, *other)
    with pytest.raises(FeedbackError, match="sent before"):
        store.record("u", asked.id, 2, "choose", "left")
    with pytest.raises(FeedbackError, match="has an answer already"):
        store.record("v", asked.id, 1, "choose", "left")
    undone = store.record("w", None, 1, "undo", now=2.0)
    assert store.record("w", None, 1, "undo", now=3.0) == undone
    assert store.labels() == []


def test_only_what_is_possible_is_recorded(store):
    asked = assignment.next(store, 1, PLAN, 0.0)
    for arguments, message in (
        (("u", asked.id, 2, "tie"), "not asked this"),
        (("u", None, 1, "tie"), "not asked this"),
        (("u", asked.id, 1, "choose"), "needs a side"),
        (("u", asked.id, 1, "tie", "left"), "needs a side"),
        (("u", asked.id, 1, "love"), "must be one of"),
        (("u", asked.id, 1, "choose", "left", 3), "strength"),
        (("u", asked.id, 1, "choose", "left", 1, -1), "0 or more"),
        (("", asked.id, 1, "tie"), "uuid"),
        (("u", None, 1, "undo"), "no answer to take back"),
        (("u", asked.id, 1, "revise", "left"), "no answer yet"),
        (("u", asked.id, 1, "reveal"), "no answer yet"),
    ):
        with pytest.raises(FeedbackError, match=message):
            store.record(*arguments)
    assert rows(store, "SELECT count(*) FROM event") == [(0,)]


def test_undo_takes_back_the_last_answer_only(store):
    first, second = vote(store, 1, PLAN, 1.0), vote(store, 1, PLAN, 2.0)
    with pytest.raises(FeedbackError, match="only the last answer"):
        store.record("x", first.id, 1, "undo")
    store.record("x", second.id, 1, "undo")
    assert [label.assignment for label in store.labels()] == [first.id]
    assert assignment.next(store, 1, PLAN, 3.0).id == second.id
    store.record("y", None, 1, "undo")
    assert store.labels() == []
    assert assignment.next(store, 1, PLAN, 3.0).id == first.id


def test_an_answer_is_revised_by_a_new_event(store):
    asked = vote(store, 1, PLAN, 1.0, side="left")
    vote(store, 1, PLAN, 2.0)
    for number, (kind, side, answer) in enumerate(
        [("choose", "right", "right"), ("tie", None, "tie"), ("skip", None, "skip"), ("choose", "left", "left")]
    ):
        store.record(f"r{number}", asked.id, 1, "revise", side, revised=kind, now=10.0 + number)
        assert store.assignment(asked.id, 1).answer == answer
    assert rows(store, "SELECT count(*) FROM event WHERE assignment_id = ?", asked.id) == [(5,)]
    assert len(store.labels()) == 2
    assert store.labels()[-1].assignment == asked.id  # in the order of events


def test_what_wrote_the_responses_is_told_once_and_the_answer_is_final_from_then_on(store):
    asked = vote(store, 1, PLAN, 1.0)
    assert store.revealed(asked.id, 1) is None
    store.record("r", asked.id, 1, "reveal")
    left, right = store.revealed(asked.id, 1)
    assert (left.name, right.name) == (
        ("old-model", "new-model") if asked.left.startswith("good") else ("new-model", "old-model")
    )
    assert store.revealed(asked.id, 2) is None
    for arguments in (("x", None, 1, "undo"), ("x", asked.id, 1, "revise", "left")):
        with pytest.raises(FeedbackError, match="final"):
            store.record(*arguments)
    assert store.assignment(asked.id, 1).answer == "left"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["choose", "tie", "skip", "undo", "revise", "reveal"]), st.integers(0, 3))))
def test_labels_follow_from_the_events(acts):
    """The trigger that keeps them agrees with a reading of all events from the first."""
    with tempfile.TemporaryDirectory() as folder:
        store = project(folder, 4)
        for number, (kind, which) in enumerate(acts):
            asked = assignment.next(store, 1, PLAN, float(number))
            answered = store.labels()
            side = "left" if kind in ("choose", "revise") else None
            try:
                if kind in ("revise", "reveal"):
                    about = answered[which % len(answered)].assignment if answered else 1
                else:
                    about = None if kind == "undo" else asked.id if asked else 1
                store.record(f"u{number}", about, 1, kind, side, now=float(number))
            except FeedbackError:
                continue
        valid = {}
        for about, kind, outcome in rows(store, "SELECT assignment_id, kind, outcome FROM event ORDER BY id"):
            if kind == "undo":
                assert about == list(valid)[-1]
                del valid[about]
            elif kind != "reveal":
                valid.pop(about, None)
                valid[about] = outcome
        assert {label.assignment: label.outcome for label in store.labels()} == valid
        store.close()


def test_notes_and_progress_are_replaced(store):
    assert (store.meta("guidelines"), store.progress()) == (None, {})
    for text in ("Be kind.", "Be kind and quick."):
        store.set_meta("guidelines", text)
        assert store.meta("guidelines") == text
    for done in (1, 2):
        store.set_progress("pairs", done, 5, "writing pairs", now=3.0)
        progress = store.progress()["pairs"]
        assert (progress.done, progress.total, progress.message, progress.at) == (done, 5, "writing pairs", 3.0)


def test_labels_of_one_purpose_or_person(opened):
    store = opened(project, 2, ("Ada", "Bea"), gold=1)
    plan = Plan(overlap=2, gold_share=1.0, repeat_share=0.0)
    while vote(store, 1, plan, 1.0) or vote(store, 2, plan, 1.0):
        pass
    assert [label.purpose for label in store.labels("gold")] == ["gold", "gold"]
    assert {label.gold for label in store.labels("gold")} == {"a"}
    assert [label.annotator for label in store.labels(annotator=2)] == [2, 2, 2]
    assert len(store.labels("train", 1)) == 2
    assert len(store.labels()) == 6
