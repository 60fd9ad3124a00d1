"""No disk space, permission, folder or memory: a one-line error, no lost work, and a resume succeeds afterwards."""

from __future__ import annotations

import random
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

from tests.crashes.bench import Bench
from tests.crashes.filecalls import Fault
from tests.crashes.room import Disk, available, on_a_disk
from tests.crashes.trials import Problem, Trial

JOBS = ("sft", "reward_model", "ppo", "reinforce", "run")
SHARES = (0.05, 0.3, 0.6, 0.9)  # of the bytes or calls that a job needs
MEGABYTES = (64, 128, 256, 512)  # of address space that a job gets; the C library itself aborts below some 50
ROOM = 64 << 20  # bytes; more than any job needs


def trials(bench: Bench) -> list[Trial]:
    """Full and read-only disks, folders that disappear, and limited memory, for every job."""
    found = []
    for job in JOBS:
        found += [Trial(f"storage/{job}/full-{share:.0%}", partial(full, job, share)) for share in SHARES]
        found += [Trial(f"storage/{job}/no-space-{share:.0%}", partial(no_space, job, share)) for share in SHARES[1:3]]
        found += [Trial(f"storage/{job}/memory-{size}", partial(memory, job, size)) for size in MEGABYTES]
        found += [Trial(f"storage/{job}/read-only", partial(read_only, job))]
        found += [Trial(f"storage/{job}/removed-{seed}", partial(removed, job, seed)) for seed in range(2)]
    if not available(bench.box("sft")):
        found = [t for t in found if not any(word in t.name for word in ("full-", "read-only"))]
        print("storage: this machine cannot mount small disks; full ones are simulated, read-only ones left out")
    return found


def full(job: str, share: float, bench: Bench) -> list[Problem]:
    """Run a job on a disk with this share of the space that it needs, then on one with enough."""
    before = _size(bench.box(job))
    wanted = _size(bench.reference(job).folder) - before
    box = bench.box("sft")

    def check(disk: Disk) -> list[Problem]:
        bench.fill(box, job)
        disk.resize(before + int(share * wanted))
        ended = bench.run(job, box)
        problems = [] if ended.code == 0 else ended.unless_refused()
        disk.resize(ROOM)
        return problems + bench.finish(job, box)

    return on_a_disk(box, ROOM, check)


def no_space(job: str, share: float, bench: Bench) -> list[Problem]:
    """A simulated full disk: from one file call on, every write fails."""
    box, calls = bench.box(job), len(bench.reference(job).calls)
    ended = bench.run(job, box, fault=Fault(int(share * calls), "full"))
    return ended.unless_refused() + bench.finish(job, box)


def read_only(job: str, bench: Bench) -> list[Problem]:
    """Run a job on a disk that cannot be written, then on one that can."""
    box = bench.box("sft")

    def check(disk: Disk) -> list[Problem]:
        bench.fill(box, job)
        disk.make_read_only()
        ended = bench.run(job, box)
        disk.resize(ROOM)
        return ended.unless_refused() + bench.finish(job, box)

    return on_a_disk(box, ROOM, check)


def removed(job: str, seed: int, bench: Bench) -> list[Problem]:
    """Remove the run directory while a job runs; then run the job again from its inputs."""
    box = bench.box(job)
    child = bench.start(job, box)
    child.sleep(random.Random(f"{job} {seed}").uniform(0, bench.reference(job).seconds))
    child.send(signal.SIGSTOP)
    shutil.rmtree(box / "run", ignore_errors=True)
    running = child.running()
    child.send(signal.SIGCONT)
    ended = child.end()
    problems = ended.unless_refused() if running and ended.code else ended.accidents()
    if running and ended.code == 0 and bench.compare(job, box):
        problems.append(Problem("silent", f"`{' '.join(ended.words)}` ends with 0, and its results are gone"))
    shutil.rmtree(box / "run", ignore_errors=True)
    bench.fill(box, job)
    return problems + (bench.run(job, box).unless_done() or bench.compare(job, box))


def memory(job: str, megabytes: int, bench: Bench) -> list[Problem]:
    """Run a job that may take this much more address space than it has when it starts, then without a limit."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    box = bench.box(job)
    ended = bench.run(job, box, prepare=limit)
    problems = [] if ended.code == 0 else ended.unless_refused()
    return problems + bench.finish(job, box)


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take on a disk with blocks of 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))
