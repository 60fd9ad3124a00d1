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

from benchmarks.options import parser
from benchmarks.workload import Workload, make

WARM_UP = 1  # updates that are not counted: the first one allocates memory and creates the optimizer's state


def start(description: str, argv: list[str] | None = None, **extra: dict) -> tuple[argparse.Namespace, Workload]:
    """Parse the command line; the options and their workload. `extra` adds flags: name={arguments of add_argument}."""
    flags = parser(description)
    for flag, arguments in extra.items():
        flags.add_argument("--" + flag.replace("_", "-"), **arguments)
    options = flags.parse_args(argv)
    return options, make(options.size, Path(options.data), options.prompts, options.epochs, options.minibatch)


def device_of(options: argparse.Namespace) -> torch.device:
    """The device of `--device`; with auto, the first GPU if there is one."""
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)


class Stopwatch:
    """Seconds of each phase of each update. On a GPU, the queued work is waited for.

    Attributes:
        updates: {phase: seconds} of each started update.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.updates, self._last = device, [], 0.0

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
        return time.perf_counter()


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


def print_record(content: dict) -> None:
    """Print the JSON line that the benchmark reads."""
    print(json.dumps(content), flush=True)
