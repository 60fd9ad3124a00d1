"""Small labelling projects for tests."""

from itertools import count

from plaudit.feedback import assignment
from plaudit.feedback.store import Store

UUIDS = map("vote-{}".format, count())


def project(folder, pairs=4, people=("Ada",), purpose="train", **more):
    """A store with pairs that two generators wrote, and people. `more` has numbers of pairs of other purposes."""
    store = Store.open(folder)
    with store.transaction():
        old, new = store.add_generator("old-model", "hash-1", "sft"), store.add_generator("new-model", "hash-2", "ppo")
        for kind, number in {purpose: pairs, **more}.items():
            for i in range(number):
                a = store.add_completion(f"{kind} {i}", f"good {i}", old, [1, i], {"temperature": 1.0}, i)
                b = store.add_completion(f"{kind} {i}", f"bad {i}", new)
                store.add_item(a, b, kind, "a" if kind in ("gold", "practice") else None, now=0.0)
        for name in people:
            store.add_annotator(name, "person", f"secret of {name}", now=0.0)
    return store


def people_of(n):
    """Names of people."""
    return [f"p{i}" for i in range(n)]


def vote(store, annotator, plan, now, kind="choose", side="left", **more):
    """The annotator's next assignment, with an answer; None when there is none."""
    asked = assignment.next(store, annotator, plan, now, **more)
    if asked:
        store.record(next(UUIDS), asked.id, annotator, kind, side if kind == "choose" else None, now=now)
    return asked


def rows(store, query, *values):
    """Rows of a query as tuples."""
    with store.database.reading() as connection:
        return [tuple(row) for row in connection.execute(query, values)]
