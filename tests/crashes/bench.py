"""The work that is disturbed: commands on a tiny model and tiny data, what they leave when nobody disturbs them.

A trial works in a box, a folder whose parent holds the model, the data and the settings. The run directory in it is
called `run`, so that no path differs between two boxes.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import transformers

from tests.crashes import filecalls
from tests.crashes.children import Child, Ended
from tests.crashes.filecalls import Call, Fault
from tests.crashes.trials import Problem
from tests.tiny import labelled_texts, make_lm, make_tokenizer

SETTINGS = """
model = "../model"
data = "../data.tsv"
device = "cpu"
dtype = "float32"
prompt_max = 3
[sft]
epochs = 1
batch_size = 16
save_every = 2
[reward_model]
epochs = 1
batch_size = 16
save_every = 2
[ppo]
iterations = 6
batch_size = 8
minibatch_size = 4
max_new_tokens = 8
save_every = 2
[reinforce]
iterations = 6
batch_size = 8
minibatch_size = 4
max_new_tokens = 8
save_every = 2
[evaluation]
prompts = 8
"""
SAVE_EVERY = 2
TITLES = {"sft": "sft", "reward_model": "reward model", "ppo": "ppo", "reinforce": "reinforce"}  # in the output
# Files about the machine and the moment: they differ between two runs that nobody disturbs.
VOLATILE = ("timing.jsonl", "memory.json", "doctor.json", ".lock", ".owner.json")
VOLATILE_HERE = ("manifest.json",)  # in the run directory itself: it has the hash of evaluation.json with its times


@dataclass(frozen=True)
class Job:
    """A command, the jobs whose results it needs in its run directory, and the name of what it makes."""

    words: str
    needs: tuple[str, ...]
    resume: str


JOBS = {
    "sft": Job("sft --config ../settings.toml --out run", (), "--resume"),
    "reward_model": Job("reward-model --out run", ("sft",), "--resume"),
    "ppo": Job("ppo --out run", ("sft", "reward_model"), "--resume"),
    "reinforce": Job("reinforce --out run", ("sft", "reward_model"), "--resume"),
    "evaluation": Job("eval run", ("sft", "reward_model", "ppo"), ""),
    "run": Job("run --config ../settings.toml --out run", (), "--resume"),
}


@dataclass(frozen=True)
class Reference:
    """A job that nobody disturbed.

    Attributes:
        folder: the run directory that it left.
        calls: its file calls.
        seconds: from its start to its end.
    """

    folder: Path
    calls: list[Call]
    seconds: float

    @cached_property
    def content(self) -> dict[str, bytes]:
        """As `content_of` the folder."""
        return content_of(self.folder)


class Bench:
    """Boxes for trials, and references to compare them with.

    Args:
        folder: an empty folder for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.references: dict[str, Reference] = {}
        transformers.utils.logging.disable_progress_bar()
        make_lm().save_pretrained(folder / "model")
        make_tokenizer().save_pretrained(folder / "model")
        (folder / "data.tsv").write_text(labelled_texts(20))
        (folder / "settings.toml").write_text(SETTINGS)
        _import_what_a_run_imports(folder)
        filecalls.install()

    def other_seed(self) -> Path:
        """A finished run directory like that of the job "run", but with another random seed."""
        box = self.folder / "other-seed"
        if not box.exists():
            box.mkdir()
            for job in ("run", "reinforce"):
                if (ended := self.run(job, box, more="--seed 2 --keep-checkpoints 1")).code:
                    raise RuntimeError(f"{ended.words} fails although nobody disturbs it:\n{ended.output}")
        return box / "run"

    def reference(self, job: str) -> Reference:
        """What the job leaves and does when nobody disturbs it.

        Raises:
            RuntimeError: it fails.
        """
        if job not in self.references:
            box, log = self.box(job, f"reference-{job}"), self.folder / f"calls-of-{job}"
            with log.open("wb") as file:
                ended = self.run(job, box, log=file.fileno())
            if ended.code:
                raise RuntimeError(f"{ended.words} fails although nobody disturbs it:\n{ended.output}")
            self.references[job] = Reference(box / "run", filecalls.read_log(log), ended.seconds)
        return self.references[job]

    def box(self, job: str, name: str = "box") -> Path:
        """A new box whose run directory has what the job needs. A box of that name is removed."""
        box = self.folder / name
        shutil.rmtree(box, ignore_errors=True)
        box.mkdir()
        self.fill(box, job)
        return box

    def fill(self, box: Path, job: str) -> None:
        """Copy what the job needs into a box's run directory."""
        if needs := JOBS[job].needs:
            shutil.copytree(self.reference(needs[-1]).folder, box / "run", dirs_exist_ok=True)

    def start(
        self, job: str, box: Path, *, resume: bool = False, fault: Fault | None = None, log: int = -1,
        prepare: Callable[[], None] = lambda: None, more: str = "", stdin: str = "",
    ) -> Child:  # fmt: skip
        """Start a job in a box.

        Args:
            resume: add --resume.
            fault: see `filecalls.watch`.
            log: as in `filecalls.watch`.
            prepare: called in the child before the command.
            more: words to add.
            stdin: what it reads there.
        """

        def before() -> None:
            prepare()
            filecalls.watch(box, fault, log)

        words = f"{JOBS[job].words} {JOBS[job].resume if resume else ''} {more}".split()
        return Child(words, box, before, stdin)

    def run(self, job: str, box: Path, **how) -> Ended:
        """Run a job in a box to its end; arguments as in `start`."""
        return self.start(job, box, **how).end()

    def finish(self, job: str, box: Path) -> list[Problem]:
        """Resume a disturbed job, or start it again if it has not begun; what is wrong with what it leaves."""
        logged = {stage: _lines(box / "run" / stage / "metrics.jsonl") for stage in TITLES}
        ended = self.run(job, box, resume=True)
        if ended.refused and not (box / "run" / "config.toml").exists():
            ended = self.run(job, box)
        return ended.unless_done() or [*_lost_steps(logged, ended.output), *self.compare(job, box)]

    def compare(self, job: str, box: Path) -> list[Problem]:
        """A problem that names the files which differ from the job's reference; none if there are none."""
        wanted, found = self.reference(job).content, content_of(box / "run")
        names = [
            f"{name} ({'missing' if name not in found else 'too many' if name not in wanted else 'differs'})"
            for name in sorted({*wanted, *found})
            if wanted.get(name) != found.get(name)
        ]
        return [Problem("difference", ", ".join(names))] if names else []


def _lost_steps(logged: dict[str, int], output: str) -> list[Problem]:
    """Stages that a resumed job begins more than SAVE_EVERY steps before the last one that had been logged."""
    problems = []
    for stage, title in TITLES.items():
        first = re.search(rf"^{title}: .* step (\d+) of ", output, re.MULTILINE)  # so short a run prints every step
        lost = logged[stage] - int(first[1]) + 1 if first else 0
        if lost > SAVE_EVERY:
            problems.append(Problem("difference", f"{stage}: {lost} steps are lost, more than {SAVE_EVERY}"))
    return problems


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def content_of(folder: Path) -> dict[str, bytes]:
    """The files of a run directory by relative path, without those about the moment, and without times in others."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: _without_times(path)
        for name, path in files.items()
        if path.name not in VOLATILE and name not in VOLATILE_HERE
    }


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "evaluation.json":
        return re.sub(rb'"wall_seconds": {[^}]*}', b"", content)
    if path.name == "report.html":
        speed = rb"(?<=<td>)[\d.,]+ (s|min|h)</td><td>[^<]*"
        return re.sub(rb"[\d.,]+ (s|min|h)(?=</p>)", b"", re.sub(speed, b"", content))
    return content


def _import_what_a_run_imports(folder: Path) -> None:
    """Import every module that `plaudit run` imports: what the parent has, a child need not load again."""
    known, names = set(sys.modules), folder / "modules"

    def at_exit_note() -> None:
        leave = os._exit

        def note(code: int) -> None:
            names.write_text("\n".join(name for name in sys.modules if name not in known))
            leave(code)

        os._exit = note

    box = folder / "first"
    box.mkdir()
    ended = Child(JOBS["run"].words.split(), box, at_exit_note).end(300)
    if ended.code:
        raise RuntimeError(f"plaudit run fails although nobody disturbs it:\n{ended.output}")
    for name in names.read_text().splitlines():
        if not name.startswith("rich._unicode_data"):  # a version in a module's name
            import_module(name)
