"""Jobs under torchrun that lose a rank, or the network: they end with one line, and lose no more than --save-every."""

import random
import time

import pytest

from plaudit.errors import RunError
from plaudit.training import dist, lock
from tests import hosts, ranks
from tests.disturbed import SAVE_EVERY, Job, ended, errors, lost_steps


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of two processes that nobody disturbed, in the run directory `whole`."""
    job = Job(tmp_path_factory.mktemp("lost"))
    done = job.run(2, "whole")
    assert done.code == 0, done.said
    assert errors(done.said) == []
    assert done.said.count("plaudit: ") == 1  # only rank 0 speaks
    return job


def test_a_job_ends_when_a_rank_dies_and_resumes(job):
    done = job.run(2, "died", disturb="die 1 5")
    assert done.code != 0
    assert done.seconds < 60
    (line,) = errors(done.said)
    assert line.startswith("plaudit: error: rank 1 on ")
    assert " has died (process " in line
    assert "; continue with: torchrun ... -m plaudit run " in line
    assert line.endswith(" --resume")
    assert "SIGKILL" in done.said  # torchrun's own report
    done = job.run(2, "died", "--resume")
    assert done.code == 0, done.said
    assert job.differing("whole", "died") == []


def test_a_job_ends_when_a_rank_fails_and_resumes_with_other_processes(job):
    done = job.run(2, "failed", disturb="raise 1 5")
    assert done.code != 0
    assert done.seconds < 60
    assert done.said.count("no score today") == 1  # every rank ends with the error, and one says it
    done = job.run(1, "failed", "--resume")
    assert done.code == 0, done.said
    assert "processes 2, now 1" in done.said
    texts = [
        [line["response"] for line in ranks.lines_of(job.folder / run / "ppo/rollouts.jsonl")]
        for run in ("whole", "failed")
    ]
    assert texts[0] == texts[1]


def test_torchrun_starts_a_rank_again_and_the_job_finishes(job):
    """One rank at a random moment, and in the next job rank 0 in the middle of a save."""
    draw = random.Random(time.time_ns())
    moment = f"moment {draw.randrange(2)} {draw.uniform(0, 1.0):.2f}"
    for out, disturb in {"moment": moment, "save": "save 0 2"}.items():
        done = job.run(2, out, disturb=disturb, restarts=2)
        assert done.code == 0, (disturb, done.said)
        assert "exitcode: -9" in done.said, disturb
        assert len(errors(done.said)) <= 1, (disturb, done.said)  # none where the others have finished
        assert job.differing("whole", out) == [], disturb
        assert lost_steps(done.said) <= SAVE_EVERY


def test_what_the_job_has_not_begun_is_not_continued(job):
    done = job.run(2, "whole", restarts=1)
    assert done.code != 0
    assert done.said.count("already holds sft, ppo; use --resume") == 2


def test_two_hosts_lose_their_network_and_resume(job):
    if reason := hosts.cannot():
        pytest.skip(reason)
    with hosts.Two() as two:
        words = {host: [*two.torchrun(host, 1), *job.words("hosts")] for host in two.hosts}
        began = time.perf_counter()
        processes = [job.start(words[host], "slow 0.3", SILENT="6") for host in two.hosts]
        metrics = job.folder / "hosts" / "ppo" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
            assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
            time.sleep(0.05)
        two.cut()
        cut = time.perf_counter()
        said = [ended(process, began) for process in processes]
        assert time.perf_counter() - cut < 60
        assert all(each.code for each in said)
        (first,), (second,) = (errors(each.said) for each in said)
        assert first.startswith(f"plaudit: error: rank 1 on {two.hosts[1]} has not been heard of for 6 s: ")
        assert second.startswith(f"plaudit: error: {two.addresses[two.hosts[0]]}:")
        assert ", where the ranks meet, has not answered for 6 s: that host or the network to it is gone" in second
        assert all(line.endswith(" --resume") for line in (first, second))
        two.mend()
        processes = [job.start([*words[host], "--resume"]) for host in two.hosts]
        assert [ended(process, began).code for process in processes] == [0, 0]
    assert job.differing("whole", "hosts") == []


def test_hosts_that_do_not_share_the_run_directory_are_refused(tmp_path, monkeypatch):
    lock.acquire(tmp_path)
    try:
        assert lock.check_shared(tmp_path) == tmp_path
        monkeypatch.setattr(dist, "size", lambda: 2)
        monkeypatch.setattr(dist, "gather", lambda own: [None, own])
        monkeypatch.setattr(dist, "rank", lambda: 1)
        monkeypatch.setattr(dist, "on_main", lambda call: '{"process": 7, "host": "another", "since": "today"}')
        monkeypatch.setattr(lock, "_SHARED", 0.1)
        with pytest.raises(RunError, match="does not see the files that rank 0 writes there on another; choose an"):
            lock.check_shared(tmp_path)
    finally:
        lock.release(tmp_path)
