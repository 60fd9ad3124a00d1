"""Files that are damaged or replaced while no process looks: refused by name, or continued from something verified."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.crashes.bench import VOLATILE, Bench
from tests.crashes.children import LIMIT, Child, Ended
from tests.crashes.filecalls import Fault
from tests.crashes.trials import Problem, Trial

TRAINED = ("sft", "reward_model", "ppo", "reinforce")


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1  # in a JSON file this is often still JSON, in a model it is a weight
    path.write_bytes(content)


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _remove(path: Path, other: Path) -> None:
    path.unlink()


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "truncated": _truncate,
    "flipped": flip,
    "emptied": _empty,
    "removed": _remove,
    "another-run's": _swap,
}


def _config(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "config.toml").write_text(content)


ROOTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "an-empty-folder": lambda folder: folder.mkdir(),
    "an-empty-config": lambda folder: _config(folder, ""),
    "half-a-config": lambda folder: _config(folder, 'model = "../model"\ndata = "../da'),
}


def trials(bench: Bench) -> list[Trial]:
    """Every file and damage of a stopped PPO run; one damage after the other for files of the other jobs."""
    found = [Trial(f"corruptions/resume-of-{what}", partial(resume_of, what)) for what in ROOTS]
    for job in (*TRAINED, "evaluation"):
        paths = sorted(path for path in stopped(bench, job).rglob("*") if _is_used(path, job))
        names = [str(path.relative_to(stopped(bench, job))) for path in paths]
        for i, name in enumerate(names):
            damages = list(DAMAGES) if job == "ppo" else [list(DAMAGES)[(i + n) % len(DAMAGES)] for n in range(2)]
            found += [
                Trial(f"corruptions/{job}/{name}/{damage}", partial(damaged, job, name, damage)) for damage in damages
            ]
    return found


def resume_of(what: str, bench: Bench) -> list[Problem]:
    """`--resume` without any settings where there is nothing to resume: the defaults are not what the user meant."""
    box = bench.box("sft")
    ROOTS[what](box / "run")
    return Child(["run", "--out", "run", "--resume"], box).end(LIMIT / 3).unless_refused()


def damaged(job: str, name: str, damage: str, bench: Bench) -> list[Problem]:
    """Damage a file of a stopped run and resume; once the file is refused, put it back and resume again."""
    box = bench.box("sft")
    shutil.copytree(stopped(bench, job), box / "run")
    path = box / "run" / name
    original, other = path.read_bytes(), bench.other_seed() / name
    if damage == "another-run's" and not other.exists():
        other = next(p for p in sorted(bench.other_seed().rglob(path.name)) if p.is_file())
    DAMAGES[damage](path, other)
    if path.exists() and path.read_bytes() == original:
        return []  # both runs have the same file
    ended = bench.run(job, box, resume=True)
    if found := ended.accidents():
        return found
    if ended.code == 0:
        return [Problem("silent", f"used; {text}") for _, text in bench.compare(job, box)]
    if found := ended.unless_refused():
        return found
    problems = [] if _names(ended, Path("run") / name) else [Problem("unclear", f"no place: {ended.last_line}")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(original)
    return problems + [Problem(kind, f"{text} (put back after the refusal)") for kind, text in bench.finish(job, box)]


def _names(ended: Ended, path: Path) -> bool:
    """Whether the refusal names the file, or a folder that it is in, as in "run/sft" and "run: its sft"."""
    words = set(re.findall(r"[\w.-]+", ended.last_line.replace("reward model", "reward_model")))
    places = [path, *path.parents][: max(2, len(path.parts) - 1)]  # the run directory only for files directly in it
    return any(words >= set(place.parts) for place in places)


def _is_used(path: Path, job: str) -> bool:
    """Whether a job may read the file. Nobody reads the checkpoints of a stage that has finished."""
    left_over = "checkpoints" in path.parts and job not in path.parts
    return path.is_file() and path.name not in VOLATILE and not left_over


def stopped(bench: Bench, job: str) -> Path:
    """A run directory whose job was killed while it logged its last step: it has checkpoints, and logs beyond them."""
    if job == "evaluation":
        return bench.reference("ppo").folder
    box = bench.folder / f"stopped-{job}"
    if not box.exists():
        calls = bench.reference(job).calls
        logged = [call.number for call in calls if call.path.endswith(f"{job}/metrics.jsonl")]
        bench.run(job, bench.box(job, box.name), fault=Fault(logged[-1], "kill"))
    return box / "run"
