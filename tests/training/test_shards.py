"""Checkpoints of sharded models: they resume on any number of processes, and damage is found."""

import shutil

import pytest

from tests import ranks
from tests.disturbed import Job

FULL = ("--sharding", "full")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A sharded job of two processes that nobody disturbed, and one that lost a process after its second checkpoint."""
    job = Job(tmp_path_factory.mktemp("shards"))
    done = job.run(2, "whole", *FULL)
    assert done.code == 0, done.said
    assert job.run(2, "died", *FULL, disturb="die 1 7").code != 0
    assert len(list((job.folder / "died" / "ppo" / "checkpoints").glob("step-*"))) == 2
    return job


def continued(job, before, out, processes, *flags, damage=False):
    """What a job prints that continues a copy of another one."""
    shutil.copytree(job.folder / before, job.folder / out)
    if damage:
        last = sorted((job.folder / out / "ppo" / "checkpoints").glob("step-*/shard-00002*"))[-1]
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 0x04
        last.write_bytes(content)
    done = job.run(processes, out, *flags, "--resume")
    assert done.code == 0, done.said
    return done.said


def responses(job, out):
    return [line["response"] for line in ranks.lines_of(job.folder / out / "ppo" / "rollouts.jsonl")]


def test_a_sharded_job_that_lost_a_process_continues_to_the_same_bits(job):
    continued(job, "died", "again", 2, *FULL)
    assert [name for name in job.differing("whole", "again") if name != "config.toml"] == []


@pytest.mark.parametrize(
    ("processes", "flags", "damage"), [(3, FULL, False), (1, FULL, True), (2, ("--sharding", "none"), False)]
)
def test_it_continues_on_other_processes_and_without_sharding(job, processes, flags, damage):
    out = f"on {processes} {flags[1]}"
    said = continued(job, "died", out, processes, *flags, damage=damage)
    assert ("damaged checkpoint, set aside" in said) == damage
    assert responses(job, out) == responses(job, "whole")
    assert ranks.difference(job.folder / "whole" / "ppo", job.folder / out / "ppo").ok


def test_a_job_that_was_not_sharded_continues_sharded(job):
    assert job.run(2, "not sharded", disturb="raise 1 5").code != 0
    said = continued(job, "not sharded", "now sharded", 2, *FULL)
    assert "sharding none, now full" in said
    assert responses(job, "now sharded") == responses(job, "whole")
