"""A process of a job is killed at a random moment or during a save: torchrun starts all again, and nothing differs.

SIGTERM stops a job after a step and a checkpoint, also where it reaches the processes by two ways.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from functools import cache, partial
from pathlib import Path

from plaudit.training.ending import endings
from tests import ranks
from tests.crashes.bench import Bench
from tests.crashes.trials import Problem, Trial
from tests.disturbed import SAVE_EVERY, Job, ended, lost_steps

SIZES = (2, 4)  # processes
MOMENTS, SAVES, STOPS = 12, 3, 3  # of jobs of each size
LATEST = 4.0  # seconds after the first score; a job of this size takes about three


def trials(bench: Bench) -> list[Trial]:
    """Random processes at random moments, rank 0 during each save."""
    found = []
    for size in SIZES:
        for seed in range(MOMENTS):
            draw = random.Random(f"{size} {seed}")
            disturb = f"moment {draw.randrange(size)} {draw.uniform(0, LATEST):.2f}"
            found.append(Trial(f"ranks/{size}/moment-{seed}", partial(killed, size, disturb)))
        for number in range(1, SAVES + 1):
            found.append(Trial(f"ranks/{size}/save-{number}", partial(killed, size, f"save 0 {number}")))
        for step in range(1, STOPS + 1):
            found.append(Trial(f"ranks/{size}/stop-{step}", partial(stopped, size, step)))
    return found


def killed(size: int, disturb: str, bench: Bench) -> list[Problem]:
    """Kill one process of a job; torchrun starts all of them again."""
    job, out = job_of(size, bench), disturb.replace(" ", "-")
    done = job.run(size, f"{size}-{out}", disturb=disturb, restarts=2)
    if done.code:
        return [Problem("unclear", f"{disturb}: exit code {done.code}: {done.said[-2000:]}")]
    found = []
    if "Traceback" in done.said:
        found.append(Problem("traceback", f"{disturb}: {done.said[-2000:]}"))
    if (lost := lost_steps(done.said)) > SAVE_EVERY:
        found.append(Problem("difference", f"{disturb}: {lost} steps are lost, more than {SAVE_EVERY}"))
    if names := job.differing(f"whole-{size}", f"{size}-{out}"):
        found.append(Problem("difference", f"{disturb}: {', '.join(names)}"))
    return found


def stopped(size: int, step: int, bench: Bench) -> list[Problem]:
    """SIGTERM to torchrun and to every process during a step, as Slurm sends it: all save and stop, and a resume ends.

    torchrun passes its own signal on, which is no second one.
    """
    job, out = job_of(size, bench), f"{size}-stop-{step}"
    metrics = job.folder / out / "ppo" / "metrics.jsonl"
    words = [*ranks.command(size), *job.words(out)]
    began = time.perf_counter()
    with job.start(words, "slow 0.4") as process:
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= step):
            time.sleep(0.02)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        for pid in (*map(int, children.stdout.split()), process.pid):
            os.kill(pid, signal.SIGTERM)
        done = ended(process, began)
    found = []
    if [(stage, each.how, each.reason) for stage, each in endings(job.folder / out).items()] != [
        ("ppo", "stopped", "SIGTERM")
    ]:
        found.append(Problem("unclear", f"ended.json of {out}: {endings(job.folder / out)}; {done.said[-2000:]}"))
    logged = metrics.read_bytes().count(b"\n")
    again = job.run(size, out, "--resume")
    if again.code:
        return [*found, Problem("unclear", f"--resume: exit code {again.code}: {again.said[-2000:]}")]
    if f"step {logged + 1} of" not in again.said:
        found.append(Problem("difference", f"{out} stopped after step {logged} and did not continue from there"))
    if names := job.differing(f"whole-{size}", out):
        found.append(Problem("difference", f"{out}: {', '.join(names)}"))
    return found


def job_of(size: int, bench: Bench) -> Job:
    """The job, which has run with so many processes and nobody disturbing it, in `whole-SIZE`."""
    job = job_in(bench.folder)
    if not (job.folder / f"whole-{size}").exists():
        whole = job.run(size, f"whole-{size}")
        if whole.code:
            raise RuntimeError(f"the job fails although nobody disturbs it:\n{whole.said}")
    return job


@cache
def job_in(folder: Path) -> Job:
    """The job of all trials."""
    place = folder / "lost"
    place.mkdir()
    return Job(place)
