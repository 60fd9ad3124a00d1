"""What a run directory says, while it is being written: nothing here raises, whatever a file holds."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from plaudit.config import ALGORITHMS, heading
from plaudit.evaluation.diagnosis import Finding, diagnose
from plaudit.evaluation.report.words import other_reward_cells
from plaudit.training.ending import FILE as ENDED
from plaudit.training.ending import endings
from plaudit.training.manifest import OTHER_REWARDS

_ROUNDS, _QUIET = "rounds", 120.0  # seconds without a new step after which a stage has stopped, whoever owns it


@dataclass(frozen=True)
class Stage:
    """A folder with the logs of a stage.

    Attributes:
        key: names it in addresses, such as `ppo` or `rounds/2/ppo`; always one of `stages`.
    """

    key: str
    title: str
    kind: str  # the algorithm
    folder: Path
    run: Path  # the run directory that it is in

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One line a step, in order of their numbers; the last of several with one number."""
        lines = {line["step"]: line for line in rows(self.folder / "metrics.jsonl") if _is_count(line.get("step"))}
        return [lines[step] for step in sorted(lines)]


def stages(run: Path) -> list[Stage]:
    """The stages of a run directory, with those of its rounds and the members of its ensembles."""
    found, folders = [], [("", run)]
    try:
        rounds = sorted((p for p in (run / _ROUNDS).iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    except OSError:
        rounds = []
    folders += [(f"{_ROUNDS}/{path.name}/", path) for path in rounds if path.is_dir()]
    for prefix, folder in folders:
        where = f"round {folder.name}: " if prefix else ""
        for kind in ALGORITHMS:
            if prefix and not (folder / kind / "metrics.jsonl").exists():
                continue
            if not prefix and kind not in ("sft", "reward_model", "ppo") and not (folder / kind).is_dir():
                continue
            name = heading(kind)
            found.append(Stage(f"{prefix}{kind}", f"{where}{name}", kind, folder / kind, folder))
            for path in sorted((folder / kind).glob("members/*/metrics.jsonl"))[:20]:
                key = f"{prefix}{kind}/members/{path.parent.name}"
                found.append(Stage(key, f"{where}{name}, member {path.parent.name}", kind, path.parent, folder))
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file, without lines that are not (the last may be half written)."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return _rows(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _rows(path: str, _: int, __: int) -> list[dict[str, Any]]:
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return []
    return [found for line in lines if isinstance(found := parsed(line), dict)]


def parsed(line: bytes) -> Any:
    """A line of JSON; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def table(path: Path) -> dict[str, Any]:
    """The object of a json file; {} if there is none."""
    try:
        found = parsed(path.read_bytes())
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """A finite number; None for anything that is none, such as null."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def in_use(run: Path) -> bool:
    """Whether a process trains in this run directory now.

    Its lock is never taken, not even for a moment: a training that starts just then would be refused.
    """
    owner = table(run / ".owner.json")
    process = owner.get("process")
    if not isinstance(process, int) or process <= 0:
        return False
    if owner.get("host") != platform.node() or os.name == "nt":  # it cannot be asked; `state` looks at the times
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


@dataclass(frozen=True)
class State:
    """How far a stage is."""

    word: str  # not begun, running, finished, stopped, failed, killed
    done: int
    total: int | None
    seconds_left: float | None
    quiet: float | None  # seconds since the last step
    reason: str = ""  # the signal that stopped it, or the error in one line


def state(stage: Stage, owned: bool, total: int | None, now: float) -> State:
    """How far a stage is.

    Args:
        owned: whether a process trains in its run directory.
        total: its steps, where the settings say so; otherwise the log of times does, from the first step on.
    """
    lines = stage.metrics
    done = lines[-1]["step"] if lines else 0
    try:
        quiet: float | None = max(0.0, now - (stage.folder / "metrics.jsonl").stat().st_mtime)
    except OSError:
        quiet = None
    if (stage.folder / "summary.json").exists():
        return State("finished", done, done, None, quiet)
    timing = rows(stage.folder / "timing.jsonl")[-20:]
    if total is None and timing and _is_count(logged := timing[-1].get("total")):
        total = logged
    if (ending := endings(stage.run).get(stage.kind)) is not None:
        return State(ending.how, done, total, None, quiet, ending.reason)
    if not lines and not (stage.folder / "inputs.json").exists():
        return State("not begun", 0, total, None, None)
    if not owned:
        return State("killed", done, total, None, quiet)
    times = [number(line.get("seconds")) for line in timing]
    recent = [seconds for seconds in times if seconds is not None]
    left = sum(recent) / len(recent) * (total - done) if recent and total else None
    running = quiet is None or quiet < max(_QUIET, 10 * max(recent, default=0))
    return State("running" if running else "stopped", done, total, left if running else None, quiet)


@dataclass(frozen=True)
class Overview:
    """The whole of a run directory."""

    stages: list[tuple[Stage, State]]
    findings: list[Finding]
    checks: list[tuple[str, dict[str, Any]]]  # stage and check, from doctor.json
    others: list[tuple[str, ...]]  # cells of the scores by other rewards
    error: str
    running: bool
    notes: list[str]


def overview(run: Path, settings: Mapping[str, Any]) -> Overview:
    """What is to be said about a run now."""
    now, found, notes = time.time(), stages(run), []
    owned = in_use(run)
    states = [
        (
            stage,
            state(
                stage,
                owned or (stage.run != run and in_use(stage.run)),
                total if _is_count(total := settings.get(f"{stage.kind}.iterations")) else None,
                now,
            ),
        )
        for stage in found
    ]
    if not (run / "config.toml").exists():
        notes.append("config.toml is missing: this folder holds no run yet, or it is being made.")
    for stage, _ in states:
        path = stage.folder / "metrics.jsonl"
        if path.exists() and _half(path):
            notes.append(f"{stage.title}: the last line of metrics.jsonl is not complete yet.")
    try:
        findings = [finding for folder in dict.fromkeys(s.run for s in found) for finding in diagnose(folder)]
    except (OSError, ValueError) as problem:  # files that vanish while they are read
        findings = []
        notes.append(f"The diagnosis is not possible now: {problem}")
    checks = [
        (name, check)
        for name, many in table(run / "doctor.json").items()
        if isinstance(many, list)
        for check in many
        if isinstance(check, dict)
    ]
    others = [other_reward_cells(*item) for item in table(run / OTHER_REWARDS).items()]
    measured = endings(run).get("evaluation")
    error = _last_error(run) or (
        f"The evaluation failed: {measured.reason}" if measured and measured.how == "failed" else ""
    )
    return Overview(states, findings, checks, others, error, any(s.word == "running" for _, s in states), notes)


def _last_error(run: Path) -> str:
    """The last line of the log of plaudit label or plaudit loop that is an error; "" if there is none."""
    try:
        lines = (run / "feedback" / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines[-50:]) if "error:" in line), "")


def _half(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if not file.tell():
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def version(run: Path) -> str:
    """Changes whenever a log of the run does."""
    parts = [str(in_use(run))]
    for path in [run / name for name in ("config.toml", "doctor.json", ENDED, OTHER_REWARDS)] + [
        s.folder / name
        for s in stages(run)
        for name in ("metrics.jsonl", "rollouts.jsonl", "tokens.jsonl", "summary.json")
    ]:
        try:
            stat = path.stat()
            parts.append(f"{stat.st_mtime_ns}-{stat.st_size}")
        except OSError:
            parts.append("-")
    return str(hash(tuple(parts)) & 0xFFFFFFFFFFFF)
