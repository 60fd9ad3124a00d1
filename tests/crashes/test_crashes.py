"""The short form of `make crashes`: some trials of each part, in a process that imports torch once and forks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crashes.short import SHORT

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    """A process that answers "PART NUMBER" with "ok" or with the problems of that trial."""
    command = [sys.executable, "-m", "tests.crashes", "--answer"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize(("part", "number"), [(part, n) for part, count in SHORT.items() for n in range(count)])
def test_nothing_is_lost_and_nothing_is_trusted_blindly(bench, part, number):
    print(part, number, file=bench.stdin, flush=True)
    answer = bench.stdout.readline().strip()
    if answer != "ok":
        name = answer.partition(": ")[0] or "it"
        pytest.fail(f"{answer}\nrepeat it: python -m tests.crashes --only {name}", pytrace=False)
