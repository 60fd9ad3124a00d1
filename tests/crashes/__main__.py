"""Disturb plaudit in every way that a machine, a user or a file can, and see that no work is lost: `make crashes`.

python -m tests.crashes                               all trials; half an hour
python -m tests.crashes --short                       some trials of each part; under two minutes
python -m tests.crashes --only kills/ppo corruptions  the trials whose names begin with kills/ppo or corruptions
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Before torch and tokenizers are imported: a fork loses threads, and no trial needs a network.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
# Where transformers would copy the code of a hostile folder.
os.environ["HF_MODULES_CACHE"] = os.path.join(tempfile.gettempdir(), f"plaudit-crashes-code-{os.getpid()}")

import torch

from tests.crashes import changes, corruptions, hostile, kills, lost_ranks, soak, stops, storage, writers
from tests.crashes.bench import Bench
from tests.crashes.short import SHORT
from tests.crashes.trials import Problem, Trial, sample, table

PARTS = {
    "kills": kills,
    "corruptions": corruptions,
    "changes": changes,
    "signals": stops,
    "writers": writers,
    "storage": storage,
    "hostile": hostile,
    "soak": soak,
    "ranks": lost_ranks,
}


def main() -> int:
    """Run the trials that the words ask for; 1 if something went wrong."""
    about, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m tests.crashes", description=about, epilog=usage, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="some trials of each part")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only trials whose names begin with NAME")
    parser.add_argument("--list", action="store_true", help="print the names of the trials")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="work in this new folder, and leave it there")
    parser.add_argument("--answer", action="store_true", help="run the trials named on stdin as PART NUMBER")
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="plaudit-crashes-") as folder:
        if words.keep:
            words.keep.mkdir(parents=True)
        bench = Bench((words.keep or Path(folder)).resolve())
        if words.answer:
            return answer(bench, sys.stdin)
        chosen = [
            trial
            for part, module in PARTS.items()
            if not words.only or any(part == name.partition("/")[0] for name in words.only)
            for trial in (sample(module.trials(bench), SHORT[part]) if words.short else module.trials(bench))
            if not words.only or any(f"{trial.name}/".startswith(f"{name}/") for name in words.only)
        ]
        if words.list:
            print("\n".join(trial.name for trial in chosen))
            return 0
        return 1 if run(bench, chosen) else 0


def run(bench: Bench, trials: list[Trial]) -> int:
    """Run the trials, print every problem and then the table; the number of trials with a problem."""
    results, seconds, cpu = [], dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    for number, trial in enumerate(trials, start=1):
        began, used = time.monotonic(), sum(os.times()[:4])
        problems = checked(trial, bench)
        seconds[trial.part] += time.monotonic() - began
        cpu[trial.part] += sum(os.times()[:4]) - used
        results.append((trial, problems))
        for line in described(trial, problems):
            print(line, flush=True)
        if number % 20 == 0:
            print(f"{number} of {len(trials)} trials", file=sys.stderr, flush=True)
    print(table(results))
    times = [f"{part} {seconds[part]:.0f} s, {cpu[part]:.0f} s of CPU" for part in PARTS if seconds[part]]
    print(f"time: {'; '.join(times)}", file=sys.stderr)
    return sum(bool(problems) for _, problems in results)


def checked(trial: Trial, bench: Bench) -> list[Problem]:
    """The problems that a trial finds, or the one that it has itself."""
    try:
        return trial.check(bench)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return [Problem("unclear", f"the trial itself fails: {error!r} at {Path(at.filename).name}:{at.lineno}")]


def described(trial: Trial, problems: list[Problem]) -> Iterator[str]:
    """One line for each problem; the first has the name that repeats the trial."""
    for problem in problems:
        yield f"{trial.name}: {problem.kind}: {problem.text}"


def answer(bench: Bench, names: TextIO) -> int:
    """Serve the test suite: for each line "PART NUMBER" run that trial of the short form and print one line.

    The line is "ok", or the problems separated by " | ".
    """
    short = {}
    for line in names:
        part, number = line.split()
        if part not in short:
            short[part] = sample(PARTS[part].trials(bench), SHORT[part])
        trial = short[part][int(number)]
        print(" | ".join(described(trial, checked(trial, bench))).replace("\n", " ") or "ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
