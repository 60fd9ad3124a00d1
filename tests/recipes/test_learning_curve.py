import numpy as np
import pytest

from plaudit.feedback.assignment import Plan
from plaudit.feedback.people import Person
from plaudit.feedback.store import Store
from recipes import learning_curve


@pytest.fixture
def sentences(monkeypatch):
    """Made-up ratings: twelve people, who differ by up to a point, of sentences from bad to good."""
    random = np.random.default_rng(0)
    means = np.linspace(-4, 4, 300)
    found = [tuple(int(x) for x in np.clip(np.round(mean + random.uniform(-1, 1, 12)), -4, 4)) for mean in means]
    monkeypatch.setattr(learning_curve, "rated_sentences", lambda: found)


def test_people_share_an_opinion_and_disagree_in_detail(sentences):
    crowd = learning_curve.crowd(1, lambda text: float(text))
    values = np.array([[person.value("p", text) for text in ("0.1", "0.5", "0.9")] for person in crowd])
    assert len(crowd) == learning_curve.PEOPLE
    assert (np.diff(values, axis=1) > 0).all()
    assert values.std(0).min() > 0
    assert [person.value("p", "0.5") for person in crowd] == list(values[:, 1])
    others = learning_curve.crowd(2, lambda text: float(text))
    assert [person.value("p", "0.5") for person in others] != list(values[:, 1])


@pytest.fixture
def project(tmp_path):
    def make(name):
        store = Store.open(tmp_path / name)
        for i in range(20):
            store.add_item(*(store.add_completion(f"p {i}", text) for text in (f"short {i}", f"much longer {i}")))
        return store

    return make


def test_votes_go_on_where_they_stopped_and_end_when_nothing_is_left(project):
    people = [Person(f"person {i}", length=1.0) for i in range(4)]
    plan = Plan(overlap=2, practice=0, repeat_share=0.0, seed=3)
    found = []
    for name, steps in (("one", (99,)), ("two", (7, 7, 22, 99))):
        store = project(name)
        for votes in steps:
            learning_curve.vote(store, people, plan, votes)
        found.append([(one.annotator, one.item, one.left, one.outcome) for one in store.labels("train")])
        store.close()
    assert found[0] == found[1]
    assert len(found[0]) == 40
    assert len({(annotator, item) for annotator, item, *_ in found[0]}) == 40


def test_the_first_choices_of_a_file_are_those_of_the_smaller_one(project, tmp_path, sentences, monkeypatch):
    monkeypatch.setattr(learning_curve, "opinion", lambda responses: lambda text: len(text) / 20)
    project("pairs").close()
    files = learning_curve.choices(tmp_path, 1, [15, 5])
    lines = {number: file.read_text().splitlines() for number, file in files.items()}
    assert (len(lines[5]), len(lines[15])) == (5, 15)
    assert set(lines[5]) <= set(lines[15])
    assert learning_curve.choices(tmp_path, 1, [5, 10])[10].read_text().splitlines() == lines[15][:10]
