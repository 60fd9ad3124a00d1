"""Killed at random moments and at file calls, torn writes and failing disks: after a resume nothing differs."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

from tests.crashes.bench import JOBS, Bench
from tests.crashes.children import Ended
from tests.crashes.filecalls import HOWS, Call, Fault
from tests.crashes.trials import Problem, Trial, sample

MOMENTS = 12  # random moments of each job
CALLS = 7  # calls of each kind in the jobs of one stage, for each of HOWS
CALLS_OF_RUN = 32  # of any kind in `plaudit run`, which makes the same calls and takes longer
KILLS = 3  # at most, of one job


def trials(bench: Bench) -> list[Trial]:
    """Random moments of every job, then calls of every kind, spread over all jobs."""
    found = [
        Trial(f"kills/{job}/moment-{seed}", partial(at_a_moment, job, seed)) for seed in range(MOMENTS) for job in JOBS
    ]
    calls: dict[str, list[tuple[str, Call]]] = {}
    for job in JOBS:
        for call in bench.reference(job).calls:
            calls.setdefault("" if job == "run" else call.kind, []).append((job, call))
    for kind in sorted(calls):
        places = sample(calls[kind], CALLS * len(HOWS) if kind else CALLS_OF_RUN)
        for i, (job, call) in enumerate(places):
            how = HOWS[i % len(HOWS)]
            found.append(Trial(f"kills/{job}/{call.number}-{call.kind}/{how}", partial(at_a_call, job, call, how)))
    return found


def at_a_moment(job: str, seed: int, bench: Bench) -> list[Problem]:
    """Kill a job, and perhaps what resumes it, at random moments."""
    draw = random.Random(f"{job} {seed}")
    box, seconds = bench.box(job), bench.reference(job).seconds
    for attempt in range(draw.randint(1, KILLS)):
        child = bench.start(job, box, resume=attempt > 0 and _has_settings(box))
        child.sleep(draw.uniform(0, seconds))
        child.send(signal.SIGKILL)
        if problems := _unless_ended_well(child.end()):
            return problems
    return bench.finish(job, box)


def at_a_call(job: str, call: Call, how: str, bench: Bench) -> list[Problem]:
    """Kill a job at a file call, or let the call fail; for every third call kill what resumes it, too."""
    box = bench.box(job)
    ended = bench.run(job, box, fault=Fault(call.number, how))
    where = f"call {call.number} is {call.kind} of {call.path}"
    problems = [Problem(kind, f"{text} ({where})") for kind, text in _unless_ended_well(ended)]
    if ended.code == 0 and how in ("kill", "torn"):
        problems.append(Problem("unclear", f"it ended before {where}"))
    if call.number % 3 == 0 and _has_settings(box):
        child = bench.start(job, box, resume=True)
        child.sleep(bench.reference(job).seconds * random.Random(f"{job} {call.number}").random())
        child.send(signal.SIGKILL)
        problems += _unless_ended_well(child.end())
    problems += [Problem(kind, f"{text} (after {where})") for kind, text in bench.finish(job, box)]
    return problems


def _unless_ended_well(ended: Ended) -> list[Problem]:
    """A job that is disturbed may be killed, finish all the same, or say in one line what is wrong."""
    return [] if ended.code in (0, -signal.SIGKILL) and not ended.hung else ended.unless_refused()


def _has_settings(box: Path) -> bool:
    """Whether there is something to resume."""
    return (box / "run" / "config.toml").exists()
