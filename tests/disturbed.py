"""Whole jobs of several processes that lose a rank: how they are started, disturbed, and compared.

The reward of such a job disturbs the process that it runs in, as the variable DISTURB says, before torchrun has started
anything again: "die R N" and "raise R N" at the N-th call on rank R, "save R N" during the N-th checkpoint there,
"moment R S" S seconds after the first call, "slow S" for S seconds at every call.
"""

import os
import re
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests import ranks

REWARD = """
import os, signal, threading, time

from plaudit.training import checkpoint, heartbeat

what, who, when = (os.environ.get("DISTURB", "") + " - - -").split()[:3]
mine = who == os.environ.get("RANK", "0") and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
calls, saves, move = 0, 0, checkpoint.move_folder
heartbeat.SILENT = float(os.environ.get("SILENT", heartbeat.SILENT))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def moved(partial, final):
    global saves
    saves += 1
    if saves == int(when):
        die()  # the files are written, and the folder has no name yet
    move(partial, final)

if mine and what == "save":
    checkpoint.move_folder = moved

def score(prompts, responses):
    global calls
    calls += 1
    if mine and what == "moment" and calls == 1:
        threading.Timer(float(when), die).start()
    if mine and what == "die" and calls == int(when):
        die()
    if mine and what == "raise" and calls == int(when):
        raise ValueError("no score today")
    if what == "slow":
        time.sleep(float(who))
    return [float(len(text)) for text in responses]
"""
SMALL = {
    "device": "cpu", "dtype": "float32", "prompt-min": 2, "prompt-max": 3, "sft.epochs": 0, "ppo.iterations": 6,
    "ppo.batch-size": 10, "ppo.minibatch-size": 7, "ppo.max-new-tokens": 6, "ppo.save-every": 2,
    "evaluation.prompts": 6,
}  # fmt: skip
SAVE_EVERY = 2
LIMIT = 300  # seconds


class Ended(NamedTuple):
    """What a job printed on stderr, its exit code, and how many seconds it took."""

    said: str
    code: int
    seconds: float


class Job:
    """`plaudit run` on a tiny model.

    Args:
        folder: an empty folder for model, data and reward; run directories can be in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.data = ranks.make_inputs(folder)
        self.reward = folder / "reward.py"
        self.reward.write_text(REWARD)

    def words(self, out: str, *more: str) -> list[str]:
        """What follows `python` or torchrun's own words."""
        flags = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
        inputs = ["--model", str(self.model), "--data", str(self.data), "--reward", f"{self.reward}:score"]
        return ["-m", "plaudit", "run", *inputs, "--judge", "none", "--out", str(self.folder / out), *flags, *more]

    def start(self, words: list[str], disturb: str = "", **environment: str) -> "subprocess.Popen[str]":
        """Start a command in an environment with these variables."""
        own = {"DISTURB": disturb, "OMP_NUM_THREADS": "1"} | environment
        return subprocess.Popen(
            words, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def run(self, processes: int, out: str, *more: str, disturb: str = "", restarts: int = 0) -> Ended:
        """Run the job with so many processes, which torchrun may start again."""
        launch = ranks.command(processes)
        launch += ["--max-restarts", str(restarts)] if restarts else []
        began = time.perf_counter()
        with self.start([*launch, *self.words(out, *more)], disturb) as process:
            return ended(process, began)

    def differing(self, one: str, other: str) -> list[str]:
        """The files of two runs of PPO and the evaluation that are not equal byte for byte, times apart."""
        names = ["config.toml", "responses.jsonl", "samples.jsonl", "evaluation.json"]
        names += [f"ppo/{name}" for name in ("metrics.jsonl", "rollouts.jsonl", "model.safetensors", "summary.json")]
        folders = self.folder / one, self.folder / other
        return [name for name in names if len({ranks.content(folder / name) for folder in folders}) > 1]


def ended(process: "subprocess.Popen[str]", began: float) -> Ended:
    """Wait for the end of a job; it is killed where it hangs."""
    watch = threading.Timer(LIMIT, process.kill)
    watch.start()
    said = process.communicate()[1]
    watch.cancel()
    return Ended(said, process.returncode, time.perf_counter() - began)


def lost_steps(said: str) -> int:
    """The most steps of PPO that a job did again: each prints a line, as so short a run does."""
    steps = [int(step) for step in re.findall(r"^ppo: .* step (\d+) of ", said, re.MULTILINE)]
    return max((before - after + 1 for before, after in pairwise(steps)), default=0)


def errors(said: str) -> list[str]:
    """The lines of a job that say why it ends."""
    return [line for line in said.splitlines() if line.startswith("plaudit: ") and "run directory" not in line]
