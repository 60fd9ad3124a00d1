"""The file of a project: nothing that was acknowledged is lost, whatever happens to the process."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np
import pytest
from feedback.projects import people_of, project, rows, vote

from plaudit.errors import FeedbackError
from plaudit.feedback import assignment, database
from plaudit.feedback.assignment import Plan
from plaudit.feedback.store import FILE, Store

PLAN = Plan(overlap=1000, practice=0, repeat_share=0.0)

WRITER = """
import sys
from plaudit.feedback.assignment import Plan, next
from plaudit.feedback.store import Store
store = Store.open(sys.argv[1])
plan = Plan(overlap=1000, practice=0, repeat_share=0.0)
while asked := next(store, int(sys.argv[2]), plan):
    uuid = f"{sys.argv[2]}-{asked.id}"
    store.record(uuid, asked.id, int(sys.argv[2]), "choose", "left")
    print(uuid, flush=True)
"""


def test_every_acknowledged_vote_survives_a_process_that_is_killed(tmp_path):
    people = 4
    project(tmp_path, 300, people_of(people)).close()
    acknowledged = []
    for person in range(1, people + 1):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(person)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3 * person):  # then it is killed, somewhere in the middle of a vote
            acknowledged.append(writer.stdout.readline().strip())
        writer.send_signal(signal.SIGKILL)
        with writer.stdout:
            acknowledged += writer.stdout.read().split()
        assert writer.wait() == -signal.SIGKILL
        store = Store.open(tmp_path)
        assert rows(store, "PRAGMA integrity_check") == [("ok",)]
        assert rows(store, "PRAGMA foreign_key_check") == []
        stored = [uuid for (uuid,) in rows(store, "SELECT uuid FROM event")]
        assert set(acknowledged) <= set(stored)
        assert len(stored) == len(store.labels()) <= len(acknowledged) + person  # at most one without its line each
        store.close()
    assert len(acknowledged) >= 3 + 6 + 9 + 12


def _votes_of(folder, person):
    """All votes of one person, in a process or thread with a store of its own."""
    store = Store.open(folder)
    count = 0
    while vote_once(store, person, count):
        count += 1
    store.close()
    return count


def vote_once(store, person, count):
    asked = assignment.next(store, person, PLAN)
    if asked:
        for _ in range(2):  # every request is sent twice
            store.record(f"{person}-{count}", asked.id, person, "choose", "left")
    return asked


def test_threads_and_processes_at_once_lose_and_double_nothing(opened):
    pairs, people = 15, 6
    store = opened(project, pairs, people_of(people))
    threads = [
        threading.Thread(target=lambda person=person: [*iter(lambda: bool(step(person)), False)])
        for person in (1, 2, 3, 4)
    ]
    counts = Counter()

    def step(person):
        counts[person] += 1
        return vote_once(store, person, counts[person])

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        others = [pool.submit(_votes_of, store.folder, person) for person in (5, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.result() for other in others] == [pairs, pairs]
    found = Counter((label.annotator, label.item) for label in store.labels())
    assert found == {(person, item): 1 for person in range(1, people + 1) for item in range(1, pairs + 1)}
    assert rows(store, "SELECT count(*) FROM event") == [(pairs * people,)]


def add_votes(store, items):
    """A vote of each of 30 people on each of these pairs."""
    begin = 1000 * items[0]
    asked = [(person, item, number) for number, (person, item) in enumerate(product(range(1, 31), items), begin)]
    with store.transaction() as connection:
        assignments = (
            "INSERT INTO assignment (annotator_id, item_id, id, repeat, \"left\", given) VALUES (?, ?, ?, 0, 'a', 0)"
        )
        events = (
            "INSERT INTO event (uuid, assignment_id, kind, outcome, strength, active_ms, wall_ms, at)"
            " VALUES (?, ?, 'choose', 'a', 1, 0, 0, 0)"
        )
        connection.executemany(assignments, asked)
        connection.executemany(events, [(f"old-{number}", number) for *_, number in asked])


def steps(store, function):
    """How many steps of SQLite's virtual machine a function takes: a measure that a busy machine does not change."""
    count = []
    with store.transaction() as connection:
        connection.set_progress_handler(lambda: count.append(1), 10)
    function()
    with store.transaction() as connection:
        connection.set_progress_handler(None, 10)
    return 10 * len(count)


@pytest.mark.parametrize("quota", [None, 200])
def test_what_a_pair_costs_does_not_depend_on_how_many_votes_others_gave(opened, quota):
    """A page of somebody with ten votes, and the vote, after 30 votes and after 6,000 votes of 30 others."""
    store = opened(project, 240, people_of(31))
    plan, costs = Plan(overlap=1000, practice=0, votes=quota, repeat_share=0.0), []
    add_votes(store, [240])
    for _ in range(10):
        vote(store, 31, plan, 2.0)

    def page_and_vote():
        vote(store, 31, plan, 2.0)
        assignment.standing(store, 31, plan)
        store.labels(annotator=31, last=1)

    costs.append(steps(store, page_and_vote))
    add_votes(store, range(1, 200))
    costs.append(steps(store, page_and_vote))
    assert costs[1] < 1.25 * costs[0]


def test_a_vote_is_written_in_much_less_than_a_tenth_of_a_second(opened):
    """Time on the processor, which a busy machine does not change: with 6,000 votes of 30 people already there."""
    store = opened(project, 240, people_of(31))
    add_votes(store, range(1, 201))
    plan, times = Plan(overlap=1000, practice=0, votes=240), []
    for person in [31] * 30 + [1] * 30:
        start = time.thread_time()
        assert vote(store, person, plan, 2.0)
        times.append(time.thread_time() - start)
    assert np.median(times) < 0.02
    assert np.quantile(times, 0.99) < 0.1


def test_events_texts_and_sides_cannot_be_changed_or_removed(opened):
    store = opened(project, 2)
    assert vote(store, 1, Plan(practice=0), 1.0)
    for table, column in (
        *(("event", "outcome"), ("event", "at"), ("prompt", "content"), ("completion", "text"), ("item", "gold")),
        *(("generator", "name"), ("assignment", '"left"')),
    ):
        for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            with pytest.raises(FeedbackError, match=r"append-only|frozen"), store.transaction() as connection:
                connection.execute(statement)
    assert len(store.labels()) == 1


def test_a_backup_while_people_vote_is_a_whole_project(opened, tmp_path):
    store = opened(project, 50)
    plan = Plan(practice=0, repeat_share=0.0)
    with store.transaction():
        for _ in range(20):
            vote(store, 1, plan, 1.0)
    copy = store.backup()
    vote(store, 1, plan, 1.0)
    assert copy.parent == store.folder / "backups"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]  # nothing beside it
    (tmp_path / "restored").mkdir()
    copy.rename(tmp_path / "restored" / FILE)
    restored = opened(Store.open, folder="restored")
    assert restored.labels() == store.labels()[:20]
    assert store.backup() != store.backup()


OLD = "CREATE TABLE vote (id INTEGER PRIMARY KEY, said TEXT); INSERT INTO vote (said) VALUES ('a'), ('b');"


def old_database(folder):
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(folder / FILE)
    connection.executescript(OLD)
    connection.close()


def only_migration(monkeypatch, script):
    """Let this SQL bring version 0 to the current one."""
    monkeypatch.setattr(database, "VERSION", 1)
    monkeypatch.setattr(database, "MIGRATIONS", {0: script})
    monkeypatch.setattr(database, "_script", lambda name: name)


def as_version_1(folder):
    """Take from a project what version 2 has added."""
    connection = sqlite3.connect(folder / FILE)
    connection.executescript("""DROP TRIGGER item_is_tallied; DROP TRIGGER assignment_is_tallied;
        DROP TRIGGER answer_is_tallied; DROP TABLE tally; PRAGMA user_version = 1;""")
    connection.close()


def test_version_1_with_votes_becomes_what_a_new_project_with_them_would_be(tmp_path):
    store = project(tmp_path, 6, people_of(3))
    for person, kind in product((1, 2, 3), ("choose", "skip", "tie")):
        vote(store, person, PLAN, 1.0, kind)
    asked = assignment.next(store, 1, PLAN, 2.0)
    query = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY name"
    before = [rows(store, query), rows(store, "SELECT * FROM tally"), store.labels()]
    assert sum(votes for _, votes in before[1]) == 7  # six votes and one that is expected
    store.close()
    as_version_1(tmp_path)
    store = Store.open(tmp_path)
    assert [rows(store, query), rows(store, "SELECT * FROM tally"), store.labels()] == before
    assert len(list((tmp_path / "backups").iterdir())) == 1
    store.record("late", asked.id, 1, "skip", now=3.0)
    assert sum(votes for _, votes in rows(store, "SELECT * FROM tally")) == 6
    store.close()


def test_an_older_version_is_migrated_after_a_backup(tmp_path, monkeypatch):
    old_database(tmp_path)
    only_migration(monkeypatch, "ALTER TABLE vote ADD COLUMN strength INTEGER NOT NULL DEFAULT 1;")
    store = Store.open(tmp_path)
    assert rows(store, "SELECT * FROM vote") == [(1, "a", 1), (2, "b", 1)]
    assert rows(store, "PRAGMA user_version") == [(database.VERSION,)]
    store.close()
    Store.open(tmp_path).close()  # not again
    (backup,) = (tmp_path / "backups").iterdir()
    copy = sqlite3.connect(backup)
    assert copy.execute("SELECT * FROM vote").fetchall() == [(1, "a"), (2, "b")]
    copy.close()


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    old_database(tmp_path)
    only_migration(monkeypatch, "DELETE FROM vote; ALTER TABLE nothing ADD COLUMN x;")
    with pytest.raises(FeedbackError, match="nothing"):
        Store.open(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("SELECT count(*) FROM vote").fetchone() == (2,)
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()
    assert len(list((tmp_path / "backups").iterdir())) == 1


def test_what_is_no_project_is_refused_in_one_line(tmp_path):
    with pytest.raises(FeedbackError, match="there is no labelling project; start one with plaudit label"):
        Store.open(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
    old_database(tmp_path / "other")
    with pytest.raises(FeedbackError, match="not a labelling project of plaudit"):
        Store.open(tmp_path / "other")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / FILE).write_text("not a database, but a text that is long enough " * 20)
    with pytest.raises(FeedbackError, match="not a database"):
        Store.open(tmp_path / "damaged")
    (tmp_path / "file").write_text("")
    with pytest.raises(FeedbackError, match="file"):
        Store.open(tmp_path / "file")
    project(tmp_path / "newer").close()
    connection = sqlite3.connect(tmp_path / "newer" / FILE)
    connection.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    connection.close()
    with pytest.raises(FeedbackError, match="newer version of plaudit: upgrade"):
        Store.open(tmp_path / "newer")


def test_a_block_of_writes_is_done_together_or_not_at_all(opened):
    store = opened(project, 1)

    def interrupted():
        with store.transaction():
            store.add_annotator("Bea", "person", "other")
            assert [one.name for one in store.annotators()] == ["Ada", "Bea"]  # it sees its own writes
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert [one.name for one in store.annotators()] == ["Ada"]
    with store.database.reading(), pytest.raises(AssertionError):
        store.set_meta("a", "b")
