"""`make bench`: run each contender in a process of its own, one after the other, and print the tables.

This process does not import torch: on Linux, the peak memory of a child starts at that of its parent.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.options import common, parser
from benchmarks.table import render

OURS = {
    "plaudit": ["--dtype", "bfloat16"],
    "plaudit, float32": ["--dtype", "float32"],
    "plaudit, top 2 layers": ["--dtype", "bfloat16", "--train-layers", "2"],
    "plaudit, LoRA 8": ["--dtype", "bfloat16", "--lora", "8"],
}
TRAINERS = [  # name, task, times as fast as TRL as we want to be, what plaudit does otherwise
    ("SFT", "sft", 4, []),
    ("SFT, packed", "sft-packed", 2, []),
    ("reward model", "reward-model", 3, []),
    ("DPO", "dpo", 5, []),
    ("GRPO", "grpo", 2, []),
    ("GRPO, top 2 layers", "grpo", 8, ["--train-layers", "2"]),
    ("RLOO", "rloo", 2, []),
    ("RLOO, top 2 layers", "rloo", 8, ["--train-layers", "2"]),
]
ROOT = Path(__file__).parent.parent


def run(name: str, command: list[str], log: Path) -> dict:
    """The JSON line that a subprocess prints last, or {"error": reason}. Its stderr goes to `log`."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        with log.open("w", encoding="utf-8") as errors:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    except OSError as error:
        return {"error": f"not run: {command[0]}: {error.strerror}"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    messages = log.read_text(encoding="utf-8").strip().splitlines() or ["no output on stderr"]
    return {"error": f"failed, exit status {done.returncode}: {messages[-1]}"}


def contenders(options, work: Path) -> list[dict]:
    """One record for each contender that `--only` selects."""
    shared = common(options)
    plans = [(name, True, [sys.executable, "-m", "benchmarks.ours"], own) for name, own in OURS.items()]
    plans.append(("notebook-style loop", False, [sys.executable, "-m", "benchmarks.notebook_loop"], []))
    plans.append(("TRL PPOTrainer", False, [options.trl_python, "-m", "benchmarks.trl_update"], []))
    records = []
    for name, ours, command, own in plans:
        if options.only and not any(word in name for word in options.only):
            continue
        log = work / f"{name.replace(',', '').replace(' ', '-')}.log"
        records.append({"name": name, "ours": ours} | run(name, [*command, *shared, *own], log))
    return records


def trainers(options, work: Path) -> list[dict]:
    """The records of plaudit and of TRL's newest trainer, one a round, for each comparison that `--only` selects.

    The two take turns, so that a disturbance of the machine is in both. TRL trains all parameters in any case, and runs
    once a round for the comparisons with the same task.
    """
    chosen = [plan for plan in TRAINERS if not options.only or any(word in plan[0] for word in options.only)]
    shared = [*common(options), "--dtype", "bfloat16", "--steps", str(options.steps), "--clock", options.clock]
    shared += ["--updates", str(options.trainer_updates)]
    found: dict[str, dict] = {
        name: {"name": name, "goal": goal, "plaudit": [], "trl": []} for name, _, goal, _ in chosen
    }
    for number in range(1, options.rounds + 1):
        theirs: dict[str, dict] = {}
        for name, task, _, own in chosen:
            for_task, log = ["--task", task, *shared], work / f"{name.replace(',', '').replace(' ', '-')}"
            if task not in theirs:
                command = [options.trl_new_python, "-m", "benchmarks.trl_trainers", *for_task]
                theirs[task] = run(f"{name}, TRL, round {number}", command, log.with_suffix(".trl.log"))
            command = [sys.executable, "-m", "benchmarks.our_trainers", *for_task, *own]
            found[name]["trl"].append(theirs[task])
            found[name]["plaudit"].append(run(f"{name}, plaudit, round {number}", command, log.with_suffix(".log")))
    return list(found.values())


def stages(options, work: Path) -> dict:
    """Seconds of each stage of `plaudit run` with the embedded model and data, in a fresh folder."""
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    print("plaudit run ...", file=sys.stderr, flush=True)
    log = work / "plaudit-run.log"
    command = [sys.executable, "-m", "plaudit", "run", "--device", options.device, "--out", str(out)]
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        return {"error": f"failed, exit status {done.returncode}; see {log}"}
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["meta"]["wall_seconds"]


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, and write tables and numbers to the work folder."""
    flags = parser("Time plaudit's PPO update and trainers beside a notebook-style loop and TRL, on this machine.")
    flags.add_argument("--trl-python", default=".venv-trl/bin/python", help="Python of the environment with TRL")
    flags.add_argument(
        "--trl-new-python", default=".venv-trl-new/bin/python", help="Python of the environment with the newest TRL"
    )
    flags.add_argument("--rounds", type=int, default=3, help="runs of each trainer; plaudit and TRL take turns")
    flags.add_argument("--steps", type=int, default=10, help="counted optimizer steps of trainers that read records")
    flags.add_argument("--trainer-updates", type=int, default=1, help="counted updates of trainers that sample")
    flags.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="of the trainers; cpu for a machine that is shared"
    )
    flags.add_argument("--only", nargs="+", metavar="WORD", help="only contenders whose names contain a word")
    flags.add_argument("--skip-run", action="store_true", help="do not time the stages of plaudit run")
    options = flags.parse_args(argv)
    work = ROOT / options.work
    work.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": run("machine", [sys.executable, "-m", "benchmarks.machine", "--device", options.device],
                       work / "machine.log"),
        "contenders": contenders(options, work),
        "trainers": trainers(options, work),
        "stages": None if options.skip_run else stages(options, work),
    }  # fmt: skip
    (work / "bench.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = render(results)
    (work / "bench.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
