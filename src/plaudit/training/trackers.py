"""Where the figures of a step go besides metrics.jsonl: TensorBoard, Weights & Biases, trackio, and a CSV file.

One function for each tracker: it opens the tracker's run of a stage, and returns two functions, one that sends the
figures of a step and one that closes it. A tracker that fails is left out with one warning; training goes on.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ConfigError
from plaudit.files import write_atomic, write_json, writes
from plaudit.training.metrics import StepReport, read_jsonl

if TYPE_CHECKING:
    from plaudit.training.run import Run

FILE = "tracking.json"  # in a stage's folder: the identity of its curves, and the last step that was sent
FOLDER = "tensorboard"  # in a run directory, with a folder for each stage
_CLOSING = 60  # seconds that a tracker has to send what is left

Send = Callable[[int, dict[str, float]], Any]  # a step, counted from 1, and its figures
Tracker = tuple[Send, Callable[[], Any]]


def tensorboard(run: Run, stage: str, first: int, identity: str) -> Tracker:
    """Event files in RUN/tensorboard/STAGE; those of steps after `first`, which are repeated, are hidden."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / FOLDER / stage), purge_step=first + 1)

    def send(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a killed process must not leave a gap before its last checkpoint

    return send, writer.close


def wandb(run: Run, stage: str, first: int, identity: str) -> Tracker:
    """A run of Weights & Biases for each stage, in a group for the run directory; its files are in RUN/wandb."""
    import wandb as library

    opened = library.init(
        project=os.environ.get("WANDB_PROJECT", "plaudit"),
        group=run.path.resolve().name,
        name=f"{run.path.resolve().name} {stage}",
        job_type=stage,
        id=identity,
        resume="allow",
        reinit="create_new",  # a run of the user's own program stays open
        dir=str(run.path),
        config=dataclasses.asdict(run.config),
        settings=library.Settings(silent=True, console="off", init_timeout=30),
    )
    return lambda step, figures: opened.log(figures, step=step), opened.finish


def trackio(run: Run, stage: str, first: int, identity: str) -> Tracker:
    """A run of trackio for each stage, in a group for the run directory."""
    import trackio as library

    with redirect_stdout(sys.stderr):  # our stdout has results only
        opened = library.init(
            project=os.environ.get("TRACKIO_PROJECT", "plaudit"),
            group=run.path.resolve().name,
            name=f"{run.path.resolve().name}-{stage}-{identity}".replace("/", "-"),
            resume="allow",
            config=dataclasses.asdict(run.config),
            embed=False,
        )

    def close() -> None:
        with redirect_stdout(sys.stderr):
            opened.finish()

    return lambda step, figures: opened.log(dict(figures), step=step), close


_TRACKERS = {function.__name__: function for function in (tensorboard, wandb, trackio)}
_KEEPS_STEPS = ("wandb", "trackio")  # they cannot take back a step, so a repeated one is not sent again


def check_installed(names: Iterable[str]) -> None:
    """Raise a ConfigError if the library of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(f"track = '{name}': the library is not installed; run: pip install {name}")


@contextmanager
def tracking(run: Run, stage: str, first: int) -> Iterator[Callable[[StepReport], StepReport]]:
    """Within this context, a stage gives each report to the function, which sends it to the trackers in the settings.

    The function returns the report, with a warning for a tracker that has failed. In the end, also when training was
    stopped, STAGE/metrics.csv has the lines of metrics.jsonl.

    Args:
        first: steps that the checkpoint has, from which training goes on.
    """
    if not writes():
        yield lambda report: report
        return
    file, notes = run.folder(stage) / FILE, []
    known = _read(file)
    opened: dict[str, Tracker] = {}
    for name in run.config.track:
        try:
            opened[name] = _TRACKERS[name](run, stage, first, known["id"])
        except Exception as error:  # of any class: network, account, disk
            notes.append(_failure(name, error))

    def track(report: StepReport) -> StepReport:
        for name, (send, _) in list(opened.items()):
            if name in _KEEPS_STEPS and report.step <= known["step"]:
                continue
            try:
                send(report.step, report.metrics)
            except Exception as error:
                del opened[name]
                notes.append(_failure(name, error))
        if report.step > known["step"] and set(opened) & set(_KEEPS_STEPS):
            known["step"] = report.step
            write_json(file, known)
        warnings = (*report.warnings, *notes)
        notes.clear()
        return dataclasses.replace(report, warnings=warnings)

    log = run.log(stage).metrics_path
    try:
        yield track
    except BaseException:
        with suppress(OSError):  # it would hide what has ended the training
            write_csv(log)
        raise
    else:
        write_csv(log)
    finally:
        for name, (_, close) in opened.items():
            if problem := _closed(close):
                notes.append(_failure(name, problem))
        for note in notes:  # there is no report to carry them
            print(f"WARNING: {note}", file=sys.stderr)


def write_csv(log: Path) -> None:
    """Write the lines of a metrics.jsonl as a CSV file beside it; a figure that is missing or null stays empty."""
    lines = read_jsonl(log)
    if lines:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_atomic(log.with_suffix(".csv"), text.getvalue())


def _read(file: Path) -> dict[str, Any]:
    """The identity of a stage's curves and the last step sent; new ones for a new stage."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {"id": str(known["id"]), "step": int(known["step"])}
    except (OSError, ValueError, KeyError, TypeError):  # it is missing, or damaged
        return {"id": uuid.uuid4().hex[:12], "step": 0}


def _closed(close: Callable[[], Any]) -> Exception | None:
    """Close a tracker in a thread, because one without a network waits for it; the error if it fails."""
    found: list[Exception | None] = []

    def work() -> None:
        try:
            close()
            found.append(None)
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_CLOSING)
    return found[0] if found else TimeoutError(f"it has not sent everything in {_CLOSING} seconds")


def _failure(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{name} gets no more figures of this stage ({reason}); training goes on, and metrics.jsonl has them all"
