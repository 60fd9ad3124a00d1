"""The model that learns while people vote, and what the pages say about it."""

import numpy as np
import pytest
from feedback.sites import form, joined, owner, pages, vote

from plaudit.feedback.learning import Learning
from plaudit.feedback.store import Store


@pytest.fixture
def store(tmp_path):
    """Pairs whose responses differ in the first activation: the first one has more of it."""
    store, random = Store.open(tmp_path), np.random.default_rng(0)
    with store.transaction():
        for i in range(40):
            features = random.normal(size=(2, 8)).astype(np.float32)
            features[:, 0] = (2.0, -2.0)
            ids = [
                store.add_completion(f"ask {i}", t, features=f) for t, f in zip(("good", "bad"), features, strict=True)
            ]
            store.add_item(*ids[:: 1 if i % 2 else -1], now=0.0)
    return store


def choose(client, store, number):
    """Votes for the good response, as the page shows them."""
    for _ in range(number):
        html = client.get("/compare").text
        left = "good" in html.partition('id="left"')[2].partition("</section>")[0]
        vote(client, "left" if left else "right")


def test_the_model_learns_what_a_person_prefers_and_says_how_well(tmp_path, store):
    with pages(tmp_path, store=store) as (client, store):
        choose(owner(client), store, 30)
        learning = Learning(store)
        learning.learn()
        assert len(learning.learned.predicted) == 30
        right = [
            (p > 0.5) == (x.outcome == "a")
            for p, x in zip(learning.learned.predicted, learning.learned.labels, strict=True)
        ]
        assert np.mean(right[10:]) > 0.9
        assert learning.learned.outlook.accuracy > 0.7
        items = [item.id for item in store.items("train")]
        assert all(learning.priority(item) >= 0 for item in items)
        assert max(map(learning.priority, items)) > 0


def test_a_vote_wakes_the_model_and_the_pages_show_what_it_predicted(tmp_path, store):
    with pages(tmp_path, store=store) as (client, store):
        choose(owner(client), store, 25)
        html = wait_for(client, "25 votes of everybody")
        assert "the model predicted it" in html
        assert "always the left response" in html
        assert "<polyline" in html
        assert "expects to be right about" in html
        assert "The model predicted" in client.get("/compare").text
        client.post("/undo", data=form(client.get("/compare").text, "/undo"))
        wait_for(client, "24 votes of everybody")


def test_everybody_sees_predictions_of_the_own_choices_only(tmp_path, store):
    with pages(tmp_path, store=store, plan={"overlap": 2}) as (client, store):
        ada, eve = joined(client, "Ada"), joined(client, "Eve")
        choose(ada, store, 12)
        choose(eve, store, 3)
        wait_for(owner(client), "15 votes of everybody")
        assert "of the last 12" in ada.get("/model").text
        assert "of the last 3" in eve.get("/model").text
        assert "of the last 15" in client.get("/model").text


def test_uncertain_pairs_come_first_where_the_plan_says_so(tmp_path, store):
    plan = {"strategy": "uncertain", "random_share": 0.0}
    with pages(tmp_path, store=store, plan=plan) as (client, store):
        choose(owner(client), store, 10)
        wait_for(client, "10 votes of everybody")
        learning = Learning(store)
        learning.learn()
        vote(client, "skip")  # this pair was given before the last vote was learned; a skip teaches nothing
        seen = {label.item for label in store.labels()}
        best = max((i.id for i in store.items("train") if i.id not in seen), key=learning.priority)
        asked = store.assignment(int(form(client.get("/compare").text)["assignment"]), 1)
        assert asked.item == best


def test_without_activations_the_page_says_why_nothing_is_learned(tmp_path):
    with pages(tmp_path, 4) as (client, _):
        vote(owner(client))
        assert "8 of 8 responses have no activations" in wait_for(client, "cannot learn yet")


def test_before_the_first_vote_there_is_nothing_to_show(tmp_path, store):
    with pages(tmp_path, store=store) as (client, _):
        assert "begins with your first answer" in owner(client).get("/model").text


def wait_for(client, words):
    """The page about the model, once it says this."""
    import time

    until = time.monotonic() + 60
    while words not in (html := client.get("/model").text):
        assert time.monotonic() < until, html.partition("<main")[2]
        time.sleep(0.05)
    return html
