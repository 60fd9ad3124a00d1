"""`plaudit loop` as people run it: a command, its page, and simulated people who answer until it is done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import pytest
from labelling.test_rounds import SMALL

from plaudit.config import build, to_toml
from plaudit.feedback.store import Store
from plaudit.labelling.rounds import FILE
from plaudit.training.run import Run
from plaudit.training.versions import versions

CODE, LONGEST = "KQ7M-3XTP", 240.0


@pytest.fixture
def path(tmp_path, tiny_config):
    config = build({"model": tiny_config.model, "data": tiny_config.data.name, **SMALL})
    path = tmp_path / "run"  # not opened here: this process would hold its lock
    path.mkdir()
    (path / "config.toml").write_text(to_toml(config, versions(config.model)), encoding="utf-8")
    return path


def start_loop(path):
    """The command, and the address of its page."""
    command = [sys.executable, "-m", "plaudit", "loop", str(path), "--rounds", "2", "--votes", "24", "--no-browser"]
    process = subprocess.Popen([*command, "--join", CODE], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()[-1].partition("?")[0]


def people(address, seed):
    """Three people who prefer longer responses; they end when the loop has."""
    command = [sys.executable, "-m", "plaudit.feedback.simulated", address, "--code", CODE, "--people", "3"]
    return subprocess.Popen(
        [*command, "--votes", "999", "--length", "1", "--seed", str(seed)], stderr=subprocess.DEVNULL
    )


def wait_for(store, condition):
    end = time.monotonic() + LONGEST
    while not condition():
        assert "error" not in (message := "".join(one.message for one in store.progress().values())), message
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def kill_with_children(process):
    """End the command and the process beside it at once, as a power cut does."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, text=True, check=False).stdout
    for pid in (process.pid, *map(int, children.split())):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_two_rounds_run_unattended_and_survive_a_kill(path):
    process, address = start_loop(path)
    crowd = people(address, seed=1)
    with closing(Store.open(path / "feedback")) as store:
        wait_for(store, lambda: (path / "rounds" / "1.jsonl").exists())
        wait_for(store, lambda: len(store.labels("train")) >= 24)
        kill_with_children(process)
        crowd.wait(LONGEST)
        before, frozen = store.labels(), (path / "rounds" / "1.jsonl").read_bytes()

        process, address = start_loop(path)
        crowd = people(address, seed=2)
        try:
            wait_for(store, lambda: store.progress()["loop"].message == "the rounds are done")
            assert crowd.wait(LONGEST) == 0
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        after = store.labels()
        names = {one.name for one in store.generators().values()}

    assert after[: len(before)] == before  # no vote is lost
    assert max(Counter((one.annotator, one.item, one.repeat) for one in after).values()) == 1  # or asked twice
    assert (path / "rounds" / "1.jsonl").read_bytes() == frozen
    assert {"run/sft", "1/ppo"} <= names
    rounds = json.loads((path / FILE).read_text())["rounds"]
    assert [found["number"] for found in rounds] == [1, 2]
    assert rounds[0]["votes"] >= 24
    assert rounds[1]["votes"] >= 48
    assert rounds[1]["win_rate_ci95"][0] <= rounds[1]["win_rate"] <= rounds[1]["win_rate_ci95"][1]
    for number in (1, 2):
        child = Run.existing(path / "rounds" / str(number))
        assert child.complete("ppo")
        snapshot = path / "rounds" / f"{number}.jsonl"
        assert child.config.reward_model.judgements == str(snapshot)
        assert child.summary("reward_model")["kind"] == "comparisons"
        assert len(snapshot.read_text().splitlines()) >= 24 * number * 0.5
