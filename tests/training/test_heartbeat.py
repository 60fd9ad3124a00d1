"""Ranks that hang, die or fail alone: the others end within seconds, with one line that says which rank, and why."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as torch_dist

from plaudit.cli import main
from plaudit.errors import RankError
from plaudit.training import ending, heartbeat, meeting

# The other rank sleeps, as in a collective that never ends.
RANK = """
import ctypes, os, signal, sys, time
from pathlib import Path
from plaudit.training import dist, ending, heartbeat
heartbeat.EVERY, heartbeat.SILENT, heartbeat.LOST = 0.2, 6.0, 2.0
what, who, run = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def reports():
    dist.start()
    dist.barrier()
    if os.environ["RANK"] == who:
        if what == "hang":
            ctypes.PyDLL(None).usleep(3_000_000)  # busy: holds the lock of the interpreter
            print("busy until", time.time(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise ValueError("odd")
    if what == "exchange":
        if os.environ["RANK"] == who:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
    time.sleep(60)
    yield

for _ in ending.recorded(run, "ppo", reports(), lambda: False):
    pass
"""
HOST = platform.node()
SCENES = {  # what happens to which rank, and what the other one says
    ("hang", 1): f"plaudit: error: rank 1 on {HOST} has not been heard of for 6 s: its process hangs",
    ("hang", 0): f"plaudit: error: rank 0 on {HOST} has not been heard of for 6 s: its process hangs",
    ("raise", 1): f"plaudit: error: rank 1 on {HOST} has ended: ValueError: odd",
    ("die", 0): "where the ranks meet, has not answered for 2 s: that host or the network to it is gone",
    ("exchange", 1): f"plaudit.errors.RankError: rank 1 on {HOST} has died (process ",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two ranks of each scene, all at once: what each said, its exit code, and the run directory."""
    started, stores = {}, []
    for what, who in SCENES:
        run, job = tmp_path_factory.mktemp("run"), {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        (run / "ppo").mkdir()
        if (what, who) == ("die", 0):  # the store goes with rank 0
            job |= {"MASTER_PORT": "29551"}
        else:  # as torchrun does
            stores.append(torch_dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
            job |= {"MASTER_PORT": str(stores[-1].port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        for rank in range(2):
            own = job | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started[what, who, rank] = run, subprocess.Popen(
                [sys.executable, "-c", RANK, what, str(who), str(run)],
                env=os.environ | own | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
    try:
        return {
            scene: (process.communicate(timeout=200)[0], process.returncode, run)
            for scene, (run, process) in started.items()
        }
    finally:
        for _, process in started.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize(("what", "who"), SCENES)
def test_the_other_rank_says_what_became_of_one(scenes, what, who):
    said, code, run = scenes[what, who, 1 - who]
    assert code == 1
    assert said.count(SCENES[what, who]) == 1, said
    if who == 1:  # rank 0 writes the files
        ((stage, found),) = ending.endings(run).items()
        assert (stage, found.how) == ("ppo", "failed")
        assert found.reason in said


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_hangs_is_ended_and_one_that_is_busy_is_not(scenes, who):
    said, code, _ = scenes["hang", who, who]
    assert "busy until" in said  # half as long as a rank may be silent
    assert code == -9


def test_processes_of_an_earlier_attempt_are_not_met(monkeypatch):
    """One store for all attempts, as torchrun keeps it: each has a name of its own, whoever comes first."""
    store = torch_dist.TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setattr(meeting, "JOINING", timedelta(seconds=5))
    clients = [torch_dist.TCPStore("127.0.0.1", store.port, is_master=False) for _ in range(3)]
    names = []
    for first in (0, 2, 1):
        found = {}

        def meet(rank, found=found):
            found[rank] = meeting.meet(clients[rank], rank, 3)

        threads = {rank: threading.Thread(target=meet, args=(rank,)) for rank in range(3)}
        threads[first].start()
        time.sleep(0.3)  # it finds what the attempt before has left
        for rank in {0, 1, 2} - {first}:
            threads[rank].start()
        for thread in threads.values():
            thread.join()
        assert len({*found.values()}) == 1
        names.append(found[0])
    assert len({*names}) == 3


def test_errors_of_other_kinds_are_not_explained():
    error = RuntimeError("connection reset by peer")
    assert heartbeat.explained(error) is error  # one process
    assert heartbeat.described(RankError("rank 1\nhangs")) == "rank 1 hangs"
    assert heartbeat.described(ValueError("a\nb")) == "ValueError: a b"


def test_the_command_line_prints_what_the_second_rank_of_a_host_has_to_say(monkeypatch, capsys):
    assert main(["--version"]) == 0
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    heartbeat.say[-1]("rank 0 on HOST has died")
    assert capsys.readouterr().err.startswith("plaudit: error: rank 0 on HOST has died")


class Store:
    """A store in memory; it calls `meanwhile` while a beat is on its way."""

    def __init__(self):
        self.kept, self.meanwhile = {}, lambda: None

    def set(self, name, value):
        self.kept[name] = value
        self.meanwhile()

    def get(self, name):
        return self.kept[name].encode()

    def multi_get(self, names):
        return [self.get(name) for name in names]


def test_a_rank_that_leaves_while_a_beat_is_on_its_way_says_so(monkeypatch):
    """Otherwise the others would take its end for its death."""
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    store = Store()
    own = heartbeat.Heartbeat(store, 0, 1, "here:1")

    def leave():
        store.meanwhile = lambda: None
        own._beat["left"] = True

    store.meanwhile = leave
    own._threads[0].join(10)
    own.leave("")
    assert not own._threads[0].is_alive()
    assert json.loads(store.kept["beat/0"])["left"]
