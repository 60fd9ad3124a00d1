"""A long PPO run: memory, open files and disk do not grow."""

from __future__ import annotations

import os
import statistics
from functools import partial
from pathlib import Path

from tests.crashes.bench import Bench
from tests.crashes.trials import Problem, Trial

LOGS = ("metrics.jsonl", "rollouts.jsonl", "tokens.jsonl", "timing.jsonl")  # some lines an iteration
EVERY = 0.2  # seconds between two measurements
MOST_GROWTH = {
    "memory": 3 << 20,
    "files": 2,
    "disk": 64 << 10,
}  # from the third quarter to the last, in bytes or files


def trials(bench: Bench) -> list[Trial]:
    """A run of 2,000 iterations; the short form takes the other one."""
    return [Trial(f"soak/ppo/{iterations}", partial(soaked, iterations), iterations) for iterations in (2000, 200)]


def soaked(iterations: int, bench: Bench) -> list[Problem]:
    """Run PPO for so many iterations, and measure it from outside meanwhile."""
    box = bench.box("ppo")
    child = bench.start("ppo", box, more=f"--iterations {iterations} --save-every 20 --lr 1e-5")
    log = box / "run" / "ppo" / "metrics.jsonl"
    child.wait_until(log.exists)
    found: dict[str, list[int]] = {name: [] for name in MOST_GROWTH}
    while child.running() and log.read_bytes().count(b"\n") < iterations:  # then it saves the model
        for name, value in measured(child.pid, box).items():
            found[name].append(value)
        child.wait_until(lambda: False, EVERY)
    problems = child.end().unless_done()
    for name, values in found.items():
        quarter = len(values) // 4
        if quarter and not problems:
            early, late = statistics.median(values[2 * quarter : 3 * quarter]), statistics.median(values[-quarter:])
            if late - early > MOST_GROWTH[name]:
                course = [f"{value:,}" for value in values[:: max(1, quarter // 2)]]
                problems.append(Problem("difference", f"{name} grows: {', '.join(course)}"))
    return problems


def measured(pid: int, box: Path) -> dict[str, int]:
    """Resident bytes, open files, and bytes on disk without the logs; nothing of a process that has ended."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        files = len(os.listdir(f"/proc/{pid}/fd"))
        disk = sum(p.stat().st_size for p in box.rglob("*") if p.name not in LOGS and p.is_file())
    except OSError:  # it has ended, or has just rotated a checkpoint
        return {}
    return {"memory": resident, "files": files, "disk": disk}
