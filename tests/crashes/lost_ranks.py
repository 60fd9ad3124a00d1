"""A process of a job is killed at a random moment or during a save: torchrun starts all again, and nothing differs."""

from __future__ import annotations

import random
from functools import cache, partial
from pathlib import Path

from tests.crashes.bench import Bench
from tests.crashes.trials import Problem, Trial
from tests.disturbed import SAVE_EVERY, Job, lost_steps

SIZES = (2, 4)  # processes
MOMENTS, SAVES = 12, 3  # of jobs of each size
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
    return found


def killed(size: int, disturb: str, bench: Bench) -> list[Problem]:
    """Kill one process of a job; torchrun starts all of them again."""
    job, out = job_in(bench.folder), disturb.replace(" ", "-")
    if not (job.folder / f"whole-{size}").exists():
        whole = job.run(size, f"whole-{size}")
        if whole.code:
            raise RuntimeError(f"the job fails although nobody disturbs it:\n{whole.said}")
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


@cache
def job_in(folder: Path) -> Job:
    """The job of all trials."""
    place = folder / "lost"
    place.mkdir()
    return Job(place)
