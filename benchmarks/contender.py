"""Shared by all contenders: the command line, the stopwatch, and the JSON line that each one prints."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import tasks
from benchmarks.options import parser
from benchmarks.workload import Workload, make

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 1  # updates or steps that are not counted: the first one allocates memory and creates the optimizer's state


def start(description: str, argv: list[str] | None = None, **extra: dict) -> tuple[argparse.Namespace, Workload]:
    """Parse the command line; the options and their workload. `extra` adds flags: name={arguments of add_argument}."""
    flags = parser(description)
    for flag, arguments in extra.items():
        flags.add_argument("--" + flag.replace("_", "-"), **arguments)
    options = flags.parse_args(argv)
    return options, make(options.size, Path(options.data), options.prompts, options.epochs, options.minibatch)


def start_trainer(
    description: str, argv: list[str] | None = None, **extra: dict
) -> tuple[argparse.Namespace, Workload]:
    """`start` for a contender that trains one task of `tasks.py`."""
    return start(
        description,
        argv,
        task={"choices": tasks.NAMES, "required": True, "help": "what to train on"},
        steps={"type": int, "default": 10, "help": "counted optimizer steps on records, after one warm-up"},
        batch={"type": int, "default": 8, "help": "records in one optimizer step"},
        clock={"choices": tuple(CLOCKS), "default": "wall", "help": "cpu counts the seconds of the process's threads"},
        **extra,
    )


def device_of(options: argparse.Namespace) -> torch.device:
    """The device of `--device`; with auto, the first GPU if there is one."""
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)


class Stopwatch:
    """Seconds of each phase of each update or step. On a GPU, the queued work is waited for.

    Args:
        clock: a name in CLOCKS.

    Attributes:
        updates: {phase: seconds} of each started update.
    """

    def __init__(self, device: torch.device, clock: str = "wall") -> None:
        self.device, self.updates, self._last, self._clock = device, [], 0.0, CLOCKS[clock]

    def start(self) -> None:
        """Begin an update."""
        self.updates.append({})
        self._last = self._now()

    def lap(self, phase: str) -> None:
        """Add the time since the start or the last lap to `phase`."""
        now = self._now()
        self.updates[-1][phase] = self.updates[-1].get(phase, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock()


def peak_memory() -> int:
    """Peak memory of this process in bytes, libraries and models included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def record(name: str, watch: Stopwatch, work: Workload, options: argparse.Namespace, **settings: object) -> dict:
    """The record that a contender prints: medians over the updates after the warm-up, and the settings."""
    counted = watch.updates[WARM_UP:]
    phases = ("generation", "scoring", "training")
    gpu = watch.device.type == "cuda"
    ran = {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    return {
        "name": name,
        "seconds": [sum(update.values()) for update in counted],
        **{phase: statistics.median(update[phase] for update in counted) for phase in phases},
        "tokens": work.tokens,
        "peak_memory": peak_memory(),
        **({"peak_gpu_memory": torch.cuda.max_memory_allocated()} if gpu else {}),
        "settings": work.settings() | ran | settings,
    }


def trainer_record(
    name: str, watch: Stopwatch, tokens: list[int], work: Workload, options: argparse.Namespace, **settings: object
) -> dict:
    """The record of a contender that trains: seconds and tokens of the steps or updates after the warm-up.

    Where log-probabilities under a reference are computed before training, each step has its share of that time.

    Args:
        tokens: of each step or update, the warm-up included.
    """
    before = sum(update.get("reference", 0.0) for update in watch.updates)
    seconds = [update["training"] for update in watch.updates if "training" in update]
    assert len(seconds) == len(tokens) > WARM_UP
    sampled = options.task in tasks.SAMPLED
    shown = {"size": work.size, "lr": work.lr, "max_grad_norm": work.max_grad_norm, "clock": options.clock}
    if sampled:
        shown |= {"optimizer_steps": work.optimizer_steps, "responses": len(tasks.prompts(work))}
    else:
        shown |= {"batch_size": options.batch}
    shown |= {"dtype": options.dtype, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {
        "name": name,
        "seconds": [before / len(seconds) + each for each in seconds[WARM_UP:]],
        "tokens": tokens[WARM_UP:],
        "peak_memory": peak_memory(),
        **({"peak_gpu_memory": torch.cuda.max_memory_allocated()} if watch.device.type == "cuda" else {}),
        "settings": shown | {"transformers": version("transformers")} | settings,
    }


def print_record(content: dict) -> None:
    """Print the JSON line that the benchmark reads."""
    print(json.dumps(content), flush=True)
