"""Hostile input gives a result or a one-line error: no traceback, no hang, and no code from the input runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.crashes import hostile_files, hostile_models
from tests.crashes.bench import Bench
from tests.crashes.children import isolated
from tests.crashes.trials import Problem, Trial

BATCH = 250  # files that one process tries
DATA, SETTINGS = 32, 8  # batches; together 10,000 files
LIMIT = 10  # seconds for one file


def trials(bench: Bench) -> list[Trial]:
    """Batches of data files and of settings, and one trial for each model folder."""
    return [
        *(Trial(f"hostile/data-{number}", partial(_batch, _load_data, number), BATCH) for number in range(DATA)),
        *(Trial(f"hostile/settings-{n}", partial(_batch, _load_settings, n), BATCH) for n in range(SETTINGS)),
        *(Trial(f"hostile/model-{name}", partial(model_folder, name)) for name in hostile_models.FOLDERS),
    ]


def model_folder(name: str, bench: Bench) -> list[Problem]:
    """Start from a model folder that somebody else made, with "y" for every question on stdin."""
    box = bench.box("sft")
    case = hostile_models.FOLDERS[name]
    hostile_models.make(name, bench.folder / "model", box)
    ended = bench.start("sft", box, more="--model theirs", stdin="y\n" * 50).end()
    problems = [] if ended.code == 0 else ended.unless_refused()
    if (box / hostile_models.MARK).exists():
        problems.append(Problem("silent", "code of the folder has run"))
    if ended.code == 0 and not case.usable:
        problems.append(Problem("silent", f"trained from it: {case.about}"))
    return problems


def _batch(load: Callable[[int, Path], Any], number: int, bench: Bench) -> list[Problem]:
    """Load the files of one batch in one process."""
    from plaudit.errors import PlauditError

    def check() -> list[Problem]:
        signal.signal(signal.SIGALRM, _too_long)
        found: dict[tuple[str, str], list[int]] = {}  # numbers of the files, by kind and text of the problem
        for seed in range(number * BATCH, (number + 1) * BATCH):
            signal.alarm(LIMIT)
            try:
                load(seed, bench.folder)
            except PlauditError:
                pass
            except _TooLongError:
                found.setdefault(("hang", f"more than {LIMIT} s"), []).append(seed)
            except BaseException as error:
                text = f"{type(error).__name__}: {str(error)[:100]}"
                found.setdefault(("traceback", text), []).append(seed)
            signal.alarm(0)
        return [
            Problem(kind, f"{text} (files {seeds[:3]}, {len(seeds)} in all)") for (kind, text), seeds in found.items()
        ]

    return isolated(check)


class _TooLongError(BaseException):
    """A file took longer than its limit."""


def _too_long(*_: Any) -> None:
    raise _TooLongError


def _load_data(seed: int, folder: Path) -> None:
    from plaudit.data.corpus import load

    suffix, content = hostile_files.data_file(seed)
    path = folder / f"hostile-{seed}{suffix}"
    path.write_bytes(content)
    try:
        load(str(path))
    finally:
        path.unlink()


def _load_settings(seed: int, folder: Path) -> None:
    from plaudit.config import build, read_toml

    path = folder / f"hostile-{seed}.toml"
    path.write_bytes(hostile_files.settings_file(seed))
    try:
        build(read_toml(path))
    finally:
        path.unlink()
