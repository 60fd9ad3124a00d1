"""What each process of a job does in `tests/ranks.py`: every algorithm and the evaluation, in one run directory.

torchrun --nproc-per-node 2 -m tests.rank_job MODEL DATA OUT [NAME=VALUE ...] [start=ANOTHER_OUT] [-- OUT ...]

With `start`, the policies are trained from the SFT and reward model of another run directory. A reward model that
differs by 1e-7 would make losses differ by more than 1e-5, because they are sums of some 30 nats times the score.
Several run directories can be made by the same processes, one after the other.
"""

import gc
import shutil
import sys
import warnings
from pathlib import Path

import torch

import plaudit
from plaudit.config import POLICIES

SETTINGS = {
    "device": "cpu", "dtype": "float32", "prompt_min": 2, "prompt_max": 3, "keep_checkpoints": 1,
    "sft.epochs": 1, "sft.batch_size": 41, "sft.microbatch_size": 7, "sft.lr": 3e-3,
    "reward_model.epochs": 1, "reward_model.batch_size": 41, "reward_model.lr": 2e-3,
    "evaluation.prompts": 13, "evaluation.batch_size": 5,
}  # fmt: skip
# Minibatches of 7 and 3 rows: on 4 ranks, shares differ and some ranks have none.
ROLLOUTS = {
    "iterations": 4, "batch_size": 10, "minibatch_size": 7, "microbatch_size": 2, "epochs": 1, "max_new_tokens": 6,
    "kl_stop": 1000.0, "save_every": 2, "group_size": 2,
}  # fmt: skip
# Of 24 responses DPO learns from at most 12 pairs, best-of-n from 12, and KTO from all: batches of 5, the last smaller.
OFFLINE = {"responses": 24, "group_size": 2, "batch_size": 5, "epochs": 3, "max_new_tokens": 6}


def settings_of(known: dict[str, object]) -> dict[str, object]:
    """The settings of the job, without those that an algorithm does not have."""
    from plaudit.config import default_settings

    chosen = dict(SETTINGS)
    for policy in POLICIES:
        own = OFFLINE if f"{policy}.responses" in known else ROLLOUTS
        chosen |= {f"{policy}.{name}": value for name, value in own.items() if f"{policy}.{name}" in default_settings()}
    return chosen


def own(out: Path, stage: str) -> Path:
    """Where a job puts its own SFT and reward model, if its policies start from others."""
    return out.with_name(f"{out.name} own") / stage


def take(start: Path, out: Path) -> None:
    """Replace SFT and reward model in a run directory by those of another one."""
    for stage in ("sft", "reward_model"):
        own(out, stage).parent.mkdir(exist_ok=True)
        shutil.move(out / stage, own(out, stage))
        shutil.copytree(start / stage, out / stage)


def job(model: str, data: str, out: str, *more: str) -> None:
    """Train every algorithm from the same SFT and reward model."""
    from plaudit.config import default_settings, resolve
    from plaudit.training import dist

    settings = settings_of(default_settings()) | dict(word.split("=") for word in more)
    start = settings.pop("start", "")
    run = plaudit.open_run(Path(out), data, resolve({"model": model, **settings}))
    for _ in plaudit.steps(run, ["sft", "reward_model"]):
        pass
    if start:
        dist.on_main(lambda: take(Path(start), Path(out)))
    for _ in plaudit.steps(run, [*POLICIES, "evaluation"]):
        pass


def main(model: str, data: str, *words: str) -> None:
    """Do one job after the other; "--" is between them."""
    from plaudit.evaluation import evaluate

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    evaluate.write_report = lambda run: None  # pictures of the files that are compared: half of the time of a job
    while words:
        end = words.index("--") if "--" in words else len(words)
        job(model, data, *words[:end])
        gc.collect()  # models have references to themselves
        words = words[end + 1 :]


if __name__ == "__main__":
    main(*sys.argv[1:])
