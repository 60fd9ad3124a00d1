"""The loop from an empty folder, at small size: pairs, votes, a reward model, a policy, and its pairs."""

import json
import uuid

import pytest

from plaudit.config import build
from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan
from plaudit.feedback.store import Store
from plaudit.labelling.rounds import FILE, loop
from plaudit.training.run import Run

SMALL = {
    "device": "cpu", "dtype": "float32", "sft.epochs": 1, "reward_model.epochs": 2, "ppo.iterations": 2,
    "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 8,
}  # fmt: skip


class Person:
    """Somebody who prefers the longer response, and votes on ten pairs whenever the loop waits."""

    def __init__(self, store):
        self.store, self.waits = store, 0
        self.id = store.add_annotator("ann", "simulated", "secret").id

    def __call__(self, seconds):
        self.waits += 1
        for _ in range(10):
            pair = assignment.next(self.store, self.id, Plan(newest=True, practice=0))
            assert pair is not None, "there are fewer pairs than votes that the loop waits for"
            side = "left" if len(pair.left) >= len(pair.right) else "right"
            self.store.record(uuid.uuid4().hex, pair.id, self.id, "choose", side)


@pytest.fixture
def run(tmp_path, tiny_config):
    config = build({"model": tiny_config.model, "data": tiny_config.data.name, **SMALL})
    return Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft",))


def test_two_rounds_of_votes_train_two_policies(run):
    store = Store.open(run.path / "feedback")
    person = Person(store)
    rounds = list(loop(run, store, rounds=2, votes=40, wait=person))
    assert [found.number for found in rounds] == [1, 2]
    assert rounds[0].win_rate is None
    assert 0 <= rounds[1].win_rate_ci95[0] <= rounds[1].win_rate <= rounds[1].win_rate_ci95[1] <= 1
    assert rounds[1].compared >= 5
    assert rounds[1].votes >= rounds[0].votes + 40
    for number in ("1", "2"):
        child = Run.existing(run.path / "rounds" / number)
        assert child.complete("ppo")
        assert child.summary("reward_model")["kind"] == "comparisons"
    assert [row["number"] for row in json.loads((run.path / FILE).read_text())["rounds"]] == [1, 2]
    assert set(rounds[0].trivial_rules) == set(Run.existing(child.path).summary("reward_model")["trivial_rules"])
    page = (run.path / "report.html").read_text()
    assert f"policy 1 with the SFT model</td><td>{rounds[1].compared}</td><td>{rounds[1].win_rate:.0%}"[:-1] in page
    assert page.count("win rate and accuracy of the reward model in each round") == 1
    names = {one.name for one in store.generators().values()}
    assert {"run/sft", "1/ppo"} <= names
    assert {label.round for label in store.labels()} == {1, 2}
    store.close()
