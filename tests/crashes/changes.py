"""Data, models and settings that change between a stop and a resume: refused by name; put back, the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.crashes.bench import Bench
from tests.crashes.corruptions import TRAINED, flip, stopped
from tests.crashes.trials import Problem, Trial


def _other_label(path: Path) -> None:
    """The first positive text becomes negative."""
    text = path.read_text()
    path.write_text(text.replace("\t1\n", "\t0\n", 1))


def _other_ids(path: Path) -> None:
    """Two tokens change places."""
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))


CHANGES: dict[str, Callable[[Path], None]] = {
    "data.tsv": _other_label,
    "model/model.safetensors": lambda path: flip(path, path),
    "model/tokenizer.json": _other_ids,
}
SETTINGS = {
    "sft": "--sft.lr 0.002",
    "reward_model": "--reward-model.lr 0.002",
    "ppo": "--ppo.kl-coef 0.2",
    "reinforce": "--reinforce.kl-coef 0.2",
}


def trials(bench: Bench) -> list[Trial]:
    """Every change for every algorithm."""
    found = [Trial(f"changes/{job}/{name}", partial(changed, job, name)) for job in TRAINED for name in CHANGES]
    return found + [Trial(f"changes/{job}/setting", partial(other_setting, job)) for job in TRAINED]


def changed(job: str, name: str, bench: Bench) -> list[Problem]:
    """Change a file that a stopped job was made from and resume; then put it back and resume again."""
    box, path = _stopped_box(job, bench), bench.folder / name
    original = path.read_bytes()
    CHANGES[name](path)
    try:
        ended = bench.run(job, box, resume=True)
    finally:
        path.write_bytes(original)
    problems = ended.unless_refused()
    if not problems and f"../{Path(name).parts[0]}" not in ended.last_line:
        problems = [Problem("unclear", f"the changed file is not named: {ended.last_line}")]
    return problems + bench.finish(job, box)


def other_setting(job: str, bench: Bench) -> list[Problem]:
    """Resume a stopped job with another setting, and then with its own."""
    box, words = _stopped_box(job, bench), SETTINGS[job]
    ended = bench.run(job, box, resume=True, more=words)
    problems = ended.unless_refused()
    name = words.split()[0].lstrip("-").replace("-", "_")
    if not problems and name not in ended.last_line:
        problems = [Problem("unclear", f"the setting {name} is not named: {ended.last_line}")]
    return problems + bench.finish(job, box)


def _stopped_box(job: str, bench: Bench) -> Path:
    stopped(bench, job)
    box = bench.box("sft")
    shutil.copytree(stopped(bench, job), box / "run")
    return box
