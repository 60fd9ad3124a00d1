"""A run directory has one owner."""

import json
import subprocess
import sys
import threading
import time

import pytest

from plaudit.errors import RunError
from plaudit.training import dist, lock

HOLD = """
import sys, time
from pathlib import Path
from plaudit.training.lock import acquire
acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that owns the run directory."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_owns_it(tmp_path, other):
    with pytest.raises(RunError, match=rf"in use by process {other.pid} on .+ since \d{{4}}-"):
        lock.acquire(tmp_path)


def test_a_killed_owner_leaves_no_lock(tmp_path, other):
    other.kill()
    other.wait()
    lock.acquire(tmp_path)
    lock.release(tmp_path)


def test_one_process_may_open_it_twice(tmp_path):
    lock.acquire(tmp_path)
    lock.acquire(tmp_path)
    lock.release(tmp_path)
    lock.acquire(tmp_path)
    lock.release(tmp_path)


@pytest.mark.parametrize("left", ["", "{", "[]", '{"process": 3}'])
def test_an_unreadable_owner_is_another_process(left, tmp_path, other):
    time.sleep(0.05)
    (tmp_path / ".owner.json").write_text(left)
    with pytest.raises(RunError, match="in use by another process"):
        lock.acquire(tmp_path)


@pytest.fixture
def beside_rank_0(monkeypatch):
    """A function that makes this process one of two, whose rank 0 sees this text in every file."""

    def make(content):
        monkeypatch.setattr(dist, "size", lambda: 2)
        monkeypatch.setattr(dist, "on_main", lambda call: content)
        monkeypatch.setattr(dist, "gather", lambda own: [None, own])
        monkeypatch.setattr(dist, "rank", lambda: 1)

    return make


def test_a_rank_waits_until_its_host_sees_a_new_file(tmp_path, beside_rank_0):
    beside_rank_0("new")
    path = tmp_path / "summary.json"
    path.write_text("old")
    seen = threading.Timer(0.5, path.write_text, ["new"])
    seen.start()
    began = time.monotonic()
    lock.wait_for(path)
    assert time.monotonic() - began > 0.4
    seen.join()


def test_a_rank_whose_host_does_not_see_a_file_says_so(tmp_path, beside_rank_0, monkeypatch):
    beside_rank_0("new")
    monkeypatch.setattr(lock, "_CACHED", 0.1)
    with pytest.raises(RunError, match=r"summary\.json: .* does not see after 0 s what rank 0 has written there"):
        lock.wait_for(tmp_path / "summary.json")


def test_a_stage_ends_when_its_result_is_seen(cpu_run, monkeypatch):
    waited = []
    monkeypatch.setattr(lock, "wait_for", lambda path: waited.append(json.loads(path.read_text())))
    cpu_run.folder("sft").mkdir()
    cpu_run.finish("sft", {"held_out": 3})
    assert waited == [{"held_out": 3}]
