"""Two processes that write one run directory: the second one is refused and does not change the first one's result."""

from __future__ import annotations

import random
import signal
from functools import partial

from tests.crashes.bench import Bench
from tests.crashes.trials import Problem, Trial

SECOND = {  # what the second process does while the first one runs
    "resume": "--resume",
    "overwrite": "--overwrite",
}
JOBS = ("sft", "reward_model", "ppo", "reinforce", "run")


def trials(bench: Bench) -> list[Trial]:
    """A second writer at a random moment, and two that start together."""
    found = [
        Trial(f"writers/{job}/{name}-{seed}", partial(second, job, words, seed))
        for seed in range(2)
        for name, words in SECOND.items()
        for job in JOBS
    ]
    return found + [Trial(f"writers/{job}/together", partial(together, job)) for job in JOBS]


def second(job: str, words: str, seed: int, bench: Bench) -> list[Problem]:
    """Pause a job once it has begun, start a second one, and let the first one go on."""
    box = bench.box(job)
    first = bench.start(job, box)
    first.wait_until(lambda: any((box / "run").glob("*/metrics.jsonl" if job in ("run", "sft") else f"{job}/*")))
    first.sleep(random.Random(f"{job} {words} {seed}").uniform(0, bench.reference(job).seconds / 4))
    first.send(signal.SIGSTOP)
    ended = bench.start(job, box, more=words).end()
    alive = first.running()
    first.send(signal.SIGCONT)
    one = first.end()
    if not alive:
        return []  # it had finished before it was paused
    problems = ended.unless_refused()
    return [Problem(kind, f"second writer: {text}") for kind, text in problems] + (
        one.unless_done() or bench.compare(job, box)
    )


def together(job: str, bench: Bench) -> list[Problem]:
    """Start the same job twice at once: one is refused, the other one finishes."""
    box = bench.box(job)
    pair = [bench.start(job, box), bench.start(job, box)]
    ends = sorted((child.end() for child in pair), key=lambda ended: ended.code)
    problems = ends[0].unless_done() or bench.compare(job, box)
    return problems + [Problem(kind, f"the other one: {text}") for kind, text in ends[1].unless_refused()]
