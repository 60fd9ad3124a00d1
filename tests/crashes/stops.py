"""Ctrl-C and SIGTERM, once and twice: the exit code and the last line say what happened, and a resume loses nothing."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

from plaudit.training.ending import endings
from tests.crashes.bench import JOBS, TITLES, Bench
from tests.crashes.children import Ended
from tests.crashes.trials import Problem, Trial

MOMENTS = 4  # of each job and signal
CODES = {"SIGINT": 130, "SIGTERM": 143}


def trials(bench: Bench) -> list[Trial]:
    """Each signal at random moments of every job, every second time followed by another one."""
    return [
        Trial(f"signals/{job}/{name}-{seed}{'-twice' if seed % 2 else ''}", partial(stopped, job, name, seed))
        for seed in range(MOMENTS)
        for name in CODES
        for job in JOBS
    ]


def stopped(job: str, name: str, seed: int, bench: Bench) -> list[Problem]:
    """Send a signal, or two shortly after each other, and resume."""
    draw = random.Random(f"{job} {name} {seed}")
    box, number = bench.box(job), getattr(signal, name)
    child = bench.start(job, box)
    child.sleep(draw.uniform(0, bench.reference(job).seconds))
    child.send(number)
    if seed % 2:
        child.sleep(draw.uniform(0, 0.1))
        child.send(number)
    ended = child.end()
    problems = _unless_stopped(ended, CODES[name]) + _unless_recorded(ended, box / "run", name, twice=bool(seed % 2))
    return problems + bench.finish(job, box)


def _unless_stopped(ended: Ended, code: int) -> list[Problem]:
    """It may have finished before the signal came; otherwise it says how to go on."""
    if found := ended.accidents():
        return found
    if ended.code == 0 or (ended.code == code and "plaudit " in ended.last_line):
        return []
    text = f"exit code {ended.code}, not {code}; last line: {ended.last_line}"
    return [Problem("unclear", f"`{' '.join(ended.words)}`: {text}")]


def _unless_recorded(ended: Ended, run: Path, name: str, *, twice: bool) -> list[Problem]:
    """A stage that has begun and not finished says which signal stopped it; a second signal may come before it can."""
    begun = [stage for stage in TITLES if (run / stage / "inputs.json").exists()]
    unfinished = {stage for stage in begun if not (run / stage / "summary.json").exists()}
    found = {stage: (ending.how, ending.reason) for stage, ending in endings(run).items()}
    allowed = [("stopped", name), *([("stopped", ""), None] if twice else [])]
    wrong = {stage: found.get(stage) for stage in unfinished if found.get(stage) not in allowed}
    if ended.code == 0:
        wrong |= found
    return [Problem("unclear", f"ended.json: {wrong}")] if wrong else []
