"""`plaudit sweep`: runs for a grid of settings and seeds, as many at once as there are cores for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import tomli_w

from plaudit.cli import flags
from plaudit.cli.layers import layered
from plaudit.config import SECTIONS, resolve
from plaudit.training import stopping


@click.command("sweep", params=[flags.directory("runs/sweep")[0], *flags.settings(*SECTIONS, bare=False)])
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=X,X,...",
    help="a setting and the values to try; repeat it for a grid: --set ppo.kl_coef=0.1,0.2 --set ppo.lr=1e-4,3e-4",
)  # fmt: skip
@flags.count("--seeds", low=1, default=3, help="seeds for each combination; the first is --seed")
@click.option(
    "--by",
    type=click.Choice(["score", "judge"]),
    default="score",
    show_default=True,
    help="figure that decides which is best",
)
@flags.count("--processes", low=1, help="runs at once; default: one for each two cores, if memory allows")
def sweep(out: Path, sets: tuple[str, ...], seeds: int, by: str, processes: int | None, **given: Any) -> None:
    """Train a grid of settings with several seeds.

    Stages that a setting does not change are trained once. To continue after a stop, repeat the command.
    """
    known = layered(given, None)

    from plaudit.cli import progress, tables
    from plaudit.evaluation import sweep as room

    points = room.grid(sets)
    stages = room.stages_of(points)
    room.check_comparable(points, by)
    first = resolve(known)["seed"]
    cells = [
        room.Cell(point, known | chosen | {"seed": seed}, seed)
        for point, chosen in points.items()
        for seed in range(first, first + seeds)
    ]
    for cell in cells:
        resolve(cell.settings)
    progress.header(resolve(known), out)
    progress.say(f"{len(points)} points x {seeds} seeds; folders and logs in {out}")

    with progress.waiting("starting"):
        from plaudit.config import build
        from plaudit.evaluation.memory import runs_that_fit
        from plaudit.pipeline import stages_for
        from plaudit.rewards import sources_of
        from plaudit.training.run import Run

        # With --by judge, the points may have different rewards: the reward model is trained where one needs it.
        rewards = {build(cell.settings).reward for cell in cells}
        stages = max((stages_for(stages, sources_of(None, reward)) for reward in rewards), key=len)
        runs = [Run(out / cell.name, build(cell.settings)) for cell in cells]
        room.check_begun(runs, stages)
    files = [_settings_file(out, cell.name, cell.settings) for cell in cells]
    cores = os.cpu_count() or 1
    at_once = processes or max(1, cores // 2)
    if not processes and at_once > 1:
        fitting = runs_that_fit(runs, stages[-2])
        if fitting < at_once:
            progress.say(
                f"runs at once: {fitting}, not {at_once}, because of the memory; --processes sets their number"
            )
            at_once = fitting
    stopped: dict[str, str] = {}
    for stage in stages:
        alive = [run for run in runs if run.path.name not in stopped]
        groups = (
            room.representatives(alive, stage) if stage != "evaluation" else {run.path.name: [run] for run in alive}
        )
        jobs = []
        for run, *_ in groups.values():
            if not run.complete(stage):
                jobs.append((run, _command(run, stage, files[runs.index(run)])))
        failed = _in_parallel(jobs, out / "logs", at_once, max(1, cores // at_once), stage)
        for same in groups.values():
            for run in same:
                if same[0].path.name in failed:
                    stopped[run.path.name] = failed[same[0].path.name]
                elif run is not same[0]:
                    room.share(same[0], run, stage)
    found = room.summarise(out, list(zip(cells, runs, strict=True)), stopped, by)
    tables.sweep(out, found)


def _settings_file(out: Path, name: str, settings: dict[str, Any]) -> Path:
    """The settings of a run as TOML, for --config."""
    path = out / "settings" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {}
    for full, value in settings.items():
        section, _, last = full.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[last] = value
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return path


def _command(run: Any, stage: str, file: Path) -> list[str]:
    begun = (run.path / "config.toml").exists()
    if stage == "evaluation":
        return ["eval", str(run.path)]
    words = [stage.replace("_", "-"), "--out", str(run.path), "--config", str(file)]
    return [*words, "--resume"] if begun and any(run.folder(stage).glob("*")) else words


def _in_parallel(
    jobs: Sequence[tuple[Any, list[str]]], logs: Path, at_once: int, threads: int, stage: str
) -> dict[str, str]:
    """Run commands of plaudit, a few at once; returns the last line of those that failed, by the name of the run.

    Ctrl-C reaches the commands too: each saves a checkpoint.
    """
    from plaudit.cli import progress
    from plaudit.evaluation.report.words import duration

    logs.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    waiting, running, failed = list(jobs), dict[str, tuple[subprocess.Popen[bytes], Any, float]](), {}
    number = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                run, words = waiting.pop(0)
                log = (logs / f"{run.path.name}.log").open("ab")
                process = subprocess.Popen(
                    [sys.executable, "-m", "plaudit", *words], stdout=log, stderr=log, env=environment
                )
                running[run.path.name] = process, log, time.perf_counter()
            for name, (process, log, began) in list(running.items()):
                if process.poll() is None:
                    continue
                log.close()
                del running[name]
                number += 1
                took = duration(time.perf_counter() - began)
                if process.returncode:
                    failed[name] = _last_line(logs / f"{name}.log")
                    progress.warn(f"{stage} {number} of {len(jobs)}: {name}: {failed[name]}")
                else:
                    progress.say(f"{stage} {number} of {len(jobs)}: {name} [{took}]")
            time.sleep(0.1)
    except BaseException as error:
        for process, *_ in running.values():
            if not isinstance(error, stopping.Stopped) or error.number != signal.SIGINT:  # which has reached them too
                process.terminate()
        for process, log, _ in running.values():
            process.wait()
            log.close()
        raise
    return failed


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].removeprefix("plaudit: error: ") if lines else "ended without a message"
