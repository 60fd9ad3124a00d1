"""A run directory has one owner."""

import subprocess
import sys
import time

import pytest

from plaudit.errors import RunError
from plaudit.training import lock

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
