import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from feedback.projects import project

from plaudit.errors import FeedbackError
from plaudit.feedback import simulated
from plaudit.feedback.app import make_app
from plaudit.feedback.assignment import Plan
from plaudit.feedback.biases import effects
from plaudit.feedback.people import Person, rated
from plaudit.feedback.simulated import answer_all, read
from plaudit.feedback.statistics import pace
from plaudit.feedback.store import Store
from plaudit.feedback.visits import Site
from plaudit.records import Message
from plaudit.web.security import guard

CODE = "KQ7M-3XTP"
PLAN = Plan(overlap=9, practice=2, repeat_share=0.0)


@contextmanager
def serving(store, plan=PLAN):
    """The pages of a project at a real port; the address and the link of the one who runs it."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    site = Site(title="test", plan=plan, code=CODE, address=address)
    server = uvicorn.Server(uvicorn.Config(guard(make_app(store, site)), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield address, site.link
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        store.close()


def texts_project(folder, pairs):
    """A project with these pairs of texts, each a response to a prompt of its own."""
    store = Store.open(folder)
    for i, (one, other) in enumerate(pairs):
        store.add_item(*(store.add_completion(f"prompt {i}", text) for text in (one, other)))
    return store


def people(n, **more):
    return [Person(f"person {i}", **more) for i in range(n)]


def test_everybody_answers_as_often_as_asked_and_nothing_is_lost_or_doubled(tmp_path):
    store = project(tmp_path, pairs=9, people=())
    with serving(store) as (address, _):
        answers = answer_all(address, people(5, ties=0.2, seconds=4.0), 8, CODE)
        labels = store.labels("train")
    assert [counts.total() for counts in answers] == [8] * 5
    assert len({label.assignment for label in labels}) == len(labels) == 40
    assert {one.role for one in store.annotators()} == {"owner", "simulated"}
    assert sum(label.outcome == "tie" for label in labels) == sum(counts["tie"] for counts in answers) > 0
    sides = [label for label in labels if label.outcome == label.left]
    assert len(sides) == sum(counts["left"] for counts in answers)
    assert pace(labels).median == pytest.approx(4, rel=0.3)


def test_they_stop_when_nothing_is_left(tmp_path):
    store = project(tmp_path, pairs=3, people=())
    with serving(store) as (address, _):
        assert [counts.total() for counts in answer_all(address, people(2), 99, CODE)] == [3, 3]


def test_known_biases_are_found_again_through_the_pages(tmp_path):
    random = np.random.default_rng(2)
    words, filler = ["good", "bad", "funny", "dull"], ["film", "story", "plot"]
    made = [
        " ".join([*random.choice(words, random.integers(3)), *random.choice(filler, random.integers(1, 9)), f"{i}"])
        for i in range(80)
    ]
    strengths = {"position": 0.8, "length": 0.6, "positivity": 0.5}
    store = texts_project(tmp_path, zip(made[::2], made[1::2], strict=True))
    with serving(store) as (address, _):
        answer_all(address, people(8, **strengths, ties=0.1), 40, CODE)
        labels = store.labels("train")
        texts = store.completions(one for label in labels for one in (label.a, label.b))
    assert len(labels) == 320
    found = effects(labels, texts)
    assert [effect.name for effect in found] == list(strengths)
    for effect in found:
        assert effect.low < strengths[effect.name] < effect.high, effect
        assert effect.low > 0, effect


def test_people_choose_what_they_rated_higher_whatever_the_text(tmp_path):
    """Texts arrive at the person as they were written: tags, entities, spaces, and right-to-left marks."""
    texts = ["<b>bold</b> & 'quoted' \"film\"", "two\n\nlines  of\ttext", "</div></section><form>", "עברית \u200f film"]
    random = np.random.default_rng(0)
    ratings = {text: random.permutation(6).tolist() for text in texts}
    pairs = [(one, other) for i, one in enumerate(texts) for other in texts[:i]]
    store = texts_project(tmp_path, pairs)
    with serving(store) as (address, _):
        answer_all(address, [Person(f"{i}", rated(ratings, i, 1000.0)) for i in range(6)], 6, CODE)
        labels, names = store.labels("train"), {one.id: one.name for one in store.annotators()}
        found = store.completions(one for label in labels for one in (label.a, label.b))
    assert len(labels) == 36
    for label in labels:
        own = [ratings[found[one].text][int(names[label.annotator])] for one in (label.a, label.b)]
        if own[0] != own[1]:
            assert label.outcome == ("a" if own[0] > own[1] else "b")
    assert {label.outcome for label in labels if label.item == labels[0].item} == {"a", "b"}  # they disagree


def test_a_dialogue_and_an_empty_response_are_read(tmp_path):
    store = Store.open(tmp_path)
    prompt = (Message("user", "Hello, you?"), Message("assistant", "Hello."), Message("user", "A film & more?"))
    store.add_item(*(store.add_completion(prompt, text) for text in ("", "Yes.")))
    seen = []
    with serving(store, Plan(practice=0)) as (_, link):
        answer_all(link, [Person("x", lambda prompt, text: seen.append((prompt, text)) or 0.0)], 1)
    assert {text for _, text in seen} == {"", "Yes."}
    assert {" ".join(prompt.split()) for prompt, _ in seen} == {"Hello, you? Hello. A film & more?"}


def test_a_page_that_asks_nothing():
    assert read("<h1>Done</h1><form action='/undo'><input type='hidden' name='uuid' value='1'></form>") is None
    assert read("") is None


def test_problems_are_one_line(tmp_path):
    store = project(tmp_path, pairs=2, people=())
    with serving(store) as (address, link):
        for arguments, match in [
            ((address, people(1), 3, "WRONG"), "403.*join code"),
            ((address, people(2), 3), "2 people need a join code"),
        ]:
            with pytest.raises(FeedbackError, match=match) as error:
                answer_all(*arguments)
            assert "\n" not in str(error.value)
        assert answer_all(link, people(1), 2)[0].total() == 2  # the one who runs the project needs no code
    with pytest.raises(FeedbackError, match="cannot be reached"):
        answer_all(address, people(1), 3, CODE)


def test_a_person_waits_for_pairs_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(simulated, "_PAUSE", 0.05)
    store = project(tmp_path, pairs=0, people=())
    store.set_progress("pairs", 0, 2, "making pairs")
    with serving(store, Plan(practice=0)) as (address, _):

        def make():
            time.sleep(0.5)
            store.add_item(*(store.add_completion("prompt", text) for text in ("one", "two")))
            store.set_progress("pairs", 2, 2)

        thread = threading.Thread(target=make)
        thread.start()
        assert answer_all(address, people(1), 5, CODE)[0].total() == 1
        thread.join()
        store.set_progress("pairs", 2, 4)
        monkeypatch.setattr(simulated, "_PATIENCE", 0.3)
        with pytest.raises(FeedbackError, match="no pair to compare"):
            answer_all(address, [Person("another")], 5, CODE)


def test_the_command(tmp_path, capsys):
    score = tmp_path / "score.py"
    score.write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n", encoding="utf-8")
    ratings = tmp_path / "ratings.json"
    ratings.write_text(json.dumps({"short": [3, 1], "much longer": [-1, 2]}), encoding="utf-8")
    store = texts_project(tmp_path / "project", [("short", "much longer"), ("much longer", "short")])
    with serving(store) as (address, _):
        arguments = [address, "--code", CODE, "--people", "2", "--votes", "2"]
        simulated.main([*arguments, "--score", f"{score}:length", "--weight", "9"])
        assert capsys.readouterr().out.startswith("2 people: 4 answers in ")
        labels = store.labels("train")
        texts = store.completions(one for label in labels for one in (label.a, label.b))
        assert all(texts[x.a if x.outcome == "a" else x.b].text == "much longer" for x in labels)
        simulated.main([*arguments, "--ratings", str(ratings), "--weight", "99", "--seed", "1"])
        assert [label.outcome for label in store.labels("train")].count("a") == 4
    for wrong, match in [
        (["--ratings", "nothing.json"], "nothing.json: must be JSON"),
        (["--score", f"{score}:nothing"], "has no function 'nothing'; it has: length"),
        (["--score", "nothing.py:f"], "nothing.py: no such file"),
        ([], "cannot be reached"),
    ]:
        with pytest.raises(SystemExit, match=match):
            simulated.main([*arguments, *wrong])
    with pytest.raises(SystemExit):
        simulated.main([*arguments, "--ties", "1"])
    assert "probabilities" in capsys.readouterr().err


def test_the_judge_values_what_is_positive():
    value = simulated._function("judge")
    good, bad = value(["", ""], ["a warm , moving and wonderful film .", "a dull , stupid and tedious film ."])
    assert good > 1 > -1 > bad
