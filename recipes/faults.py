"""Put each of eight training faults into small runs that are otherwise healthy, and see whether plaudit names it.

    python recipes/faults.py runs/faults --seeds 0-19

SFT and the reward model of `movie-gpt2` are trained once. From them, each run is a short PPO (or, for the data leak, a
short SFT) on one thread, and takes 6 to 27 seconds of it. What `diagnose` reads of a run stays in RUNS/SEED/NAME, and a
line of RUNS/faults.jsonl says that it is there: a second call makes only the runs that are missing, and names the
faults of all of them anew. The thresholds of plaudit.evaluation.diagnosis were chosen on seeds from 100 on. The table
is in docs/training-faults.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import random
import shutil
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import torch

from plaudit import open_run, rng, steps
from plaudit.algorithms import ppo
from plaudit.algorithms.reinforce import reinforce
from plaudit.batches import Rollout
from plaudit.config import build, flatten
from plaudit.data.corpus import load
from plaudit.evaluation.diagnosis import FAULTS, diagnose
from plaudit.evaluation.hacking import detect_reward_hacking
from plaudit.maths.masked import whiten
from plaudit.rewards import AnyReward
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run

# Of 8 optimizer steps an iteration, as by default, with a quarter of the responses.
SMALL = {"iterations": 12, "batch_size": 32, "minibatch_size": 8, "max_new_tokens": 40}
LONGER = {"iterations": 24, "lr": 6e-4}  # until the score is a success
SHARED = ("sft", "reward_model")
OTHERS = 5  # seeds of the healthy runs with other settings
KEPT = ("config.toml", "metrics.jsonl", "watch.jsonl", "summary.json")  # what diagnose reads
TEXTS, HELD_OUT, LEAKED = 400, 100, 20  # of a run for the data leak

Patch = Callable[[Any], Any]  # from a function of plaudit to its replacement


class Case(NamedTuple):
    """A kind of run: a fault with its variants, which the seeds take in turn, or a healthy one."""

    name: str
    fault: str  # of FAULTS; "" for a healthy run
    variants: tuple[Variant, ...]


class Variant(NamedTuple):
    """One way in which a fault happens in life."""

    settings: Mapping[str, Any] = MappingProxyType({})
    patches: Mapping[str, Patch] = MappingProxyType({})  # by the name of a function in plaudit.algorithms.ppo
    reward: AnyReward = None
    stage: str = "ppo"
    leak: str = ""  # "" for a run of PPO, otherwise how the held-out texts differ from those in training


def _wrong_sign(value_loss: Any) -> Any:
    def negated(*args: Any) -> Any:
        total, count = value_loss(*args)
        return -total, count

    return negated


def _shuffled(rollout_values: Any) -> Any:
    def values(policy: Any, states: Any, rollout: Rollout) -> Any:
        found = rollout_values(policy, states, rollout)
        order = torch.from_numpy(rng.permutation(len(found), 0, "shuffled values", 0).copy())
        return found[order] * rollout.responses.response_mask

    return values


def _nothing(function: Any) -> Any:
    return lambda *args: None


def _without_gradient(value_loss: Any) -> Any:
    return lambda values, *rest: value_loss(values.detach(), *rest)


def _towards_certainty(compute_advantages: Any) -> Any:
    """The entropy bonus with the wrong sign, and with a weight that belongs to another loss."""

    def changed(rollout: Rollout, *rest: Any) -> Any:
        batch, mask = compute_advantages(rollout, *rest), rollout.responses.response_mask
        return dataclasses.replace(batch, advantages=whiten(batch.advantages + 2 * rollout.logprobs, mask))

    return changed


def _without_penalty(token_rewards: Any) -> Any:
    return lambda scores, kl, mask, kl_coef: token_rewards(scores, 0 * kl, mask, kl_coef)


def wrong_words(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Words of strong feeling, of which most are bad: a stand-in for engagement."""
    words = ("bad", "too", "dull", "worst", "boring", "no", "not", "never", "only", "nothing", "mess", "tedious")
    return [float(sum(word in words for word in response.split())) for response in responses]


def chance(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward that has nothing to do with the response."""
    return random.Random("".join(responses)).choices(range(10), k=len(responses))


def brevity(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A sound reward of a user: responses of about twelve words."""
    return [-abs(len(response.split()) - 12.0) for response in responses]


CASES = (
    Case("healthy", "", (Variant(),)),
    Case("learning rate x 30", "learning_rate", (Variant({"lr": 9e-3}),)),
    Case(
        "broken critic",
        "critic",
        (
            Variant(patches={"value_loss": _wrong_sign}),
            Variant(patches={"rollout_values": _shuffled}),
            Variant(patches={"value_loss": _without_gradient, "fit_critic": _nothing}),
        ),
    ),
    Case(
        "entropy bonus with the wrong sign", "entropy", (Variant(patches={"compute_advantages": _towards_certainty}),)
    ),
    Case(
        "deceived reward",
        "hacking",
        (
            Variant(LONGER, reward=wrong_words),
            Variant(LONGER, reward={"model": -1.0}),
        ),
    ),
    Case(
        "KL penalty off",
        "kl_penalty",
        (Variant({"kl_coef": 0.0}), Variant(patches={"token_rewards": _without_penalty})),
    ),
    Case("responses cut off", "cut_off", (Variant({"max_new_tokens": 8}), Variant({"max_new_tokens": 12}))),
    Case(
        "data leak", "leak", (Variant(leak="punctuation"), Variant(leak="a word"), Variant(leak="inside a longer text"))
    ),
    Case("nothing learned", "nothing_learned", (Variant({"lr": 0.0}), Variant(reward=chance))),
    Case("healthy, REINFORCE", "", (Variant({"minibatch_size": 32, "iterations": 24}, stage="reinforce"),)),
    Case("healthy, kl_coef x 2", "", (Variant({"kl_coef": 0.3}),)),
    Case("healthy, kl_coef / 3", "", (Variant({"kl_coef": 0.05}),)),
    Case("healthy, lr x 2", "", (Variant({"lr": 6e-4}),)),
    Case("healthy, lr / 2", "", (Variant({"lr": 1.5e-4}),)),
    Case("healthy, a function as the reward", "", (Variant(reward=brevity),)),
    Case("healthy, two files without a leak", "", (Variant(leak="none"),)),
)


def main(folder: Path, seeds: Sequence[int], names: Sequence[str] = ()) -> None:
    """Make the runs that are missing, and print the table."""
    torch.set_num_threads(1)
    record = folder / "faults.jsonl"
    base = shared(folder / "shared")
    known = {(line["case"], line["seed"]) for line in read_jsonl(record)}
    plan = [(seed, case) for seed in seeds for case in CASES if case.fault or case is CASES[0]]
    plan += [(seed, case) for seed in seeds for case in CASES if (seed, case) not in plan and seed < OTHERS]
    for seed, case in plan:
        if (case.name, seed) not in known and (not names or any(name in case.name for name in names)):
            began = time.process_time()  # not the clock's: other programs may be running
            make_run(base, place(folder, case, seed), case, seed)
            line = {"case": case.name, "seed": seed, "seconds": round(time.process_time() - began, 1)}
            line["named"] = [finding.fault for finding in diagnose(place(folder, case, seed))]
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{line['seconds']:5.1f} s  seed {seed}  {case.name}: {line['named']}", flush=True)
    print("\n".join(table(folder, seeds)))


def place(folder: Path, case: Case, seed: int) -> Path:
    """The folder of a run."""
    return folder / str(seed) / case.name.replace(" ", "-").replace(",", "").replace("/", "over")


def shared(folder: Path, settings: dict[str, Any] | None = None) -> Run:
    """SFT and the reward model, trained if they are not there."""
    run = open_run(folder, settings=settings, preset="movie-gpt2")
    for _ in steps(run, SHARED):
        pass
    return run


def make_run(base: Run, folder: Path, case: Case, seed: int, small: Mapping[str, Any] = SMALL) -> None:
    """Make a run of a case, of which the models and the responses are removed afterwards."""
    variant = case.variants[seed % len(case.variants)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if variant.leak:
        _train_on_leaking_files(base, folder, variant.leak, seed)
    else:
        _train_policy(base, folder, variant, seed, small)
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name not in KEPT]:
        path.unlink()


def _train_policy(base: Run, folder: Path, variant: Variant, seed: int, small: Mapping[str, Any]) -> None:
    stage = variant.stage
    settings = {f"{stage}.{name}": value for name, value in {**small, **variant.settings}.items()}
    config = build(flatten(dataclasses.asdict(base.config)) | settings | {"seed": seed})
    run = base.branch(folder, config, SHARED)
    with ExitStack() as stack:
        for name, patch in variant.patches.items():
            stack.enter_context(mock.patch.object(ppo, name, patch(getattr(ppo, name))))
        algorithm = {"ppo": ppo.ppo, "reinforce": reinforce}[stage]
        for _ in detect_reward_hacking(run, stage, algorithm(run, variant.reward), variant.reward):
            pass


def _train_on_leaking_files(base: Run, folder: Path, how: str, seed: int) -> None:
    """A short SFT on two files of the user's, of which the second has texts of the first, changed a little."""
    random_ = random.Random(seed)
    parts = load(base.config.data).parts.values()
    texts = [(str(t.text), int(t.label)) for part in parts for t in part.labelled]
    texts = [(text, label) for text, label in texts if 8 <= len(text.split()) <= 30]
    chosen = random_.sample(texts, TEXTS + HELD_OUT)
    train, held_out = chosen[:TEXTS], chosen[TEXTS:]
    if how != "none":
        held_out[:LEAKED] = [(_changed(text, how, random_), label) for text, label in train[:LEAKED]]
    files = folder.parent / "train.csv", folder.parent / "held_out.csv"
    for file, some in zip(files, (train, held_out), strict=True):
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([("text", "label"), *some])
    settings = {"data.evaluation": str(files[1]), "sft.epochs": 1, "seed": seed}
    run = open_run(folder, str(files[0]), settings, preset="movie-gpt2")
    for _ in steps(run, ("sft",)):
        pass


def _changed(text: str, how: str, random_: random.Random) -> str:
    words = text.split()
    if how == "punctuation":
        return " ".join(w for w in words if w not in string.punctuation).capitalize() + "!"
    if how == "a word":
        words[random_.randrange(len(words))] = "really"
        return " ".join(words)
    return " ".join(words[: max(8, 2 * len(words) // 3)])


def table(folder: Path, seeds: Sequence[int]) -> Iterator[str]:
    """The table of the docs, of the runs that are there."""
    known = {(line["case"], line["seed"]) for line in read_jsonl(folder / "faults.jsonl")}
    yield "| run | runs | named | something else named besides | what else |"
    yield "|---|---|---|---|---|"
    for case in CASES:
        some = [seed for seed in seeds if (case.name, seed) in known]
        found = [{finding.fault for finding in diagnose(place(folder, case, seed))} for seed in some]
        named = sum(case.fault in faults for faults in found) if case.fault else ""
        besides = sum(bool(faults - {case.fault}) for faults in found)
        counts = {
            name: sum(fault in faults for faults in found) for fault, name in FAULTS.items() if fault != case.fault
        }
        what = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        yield f"| {case.name} | {len(some)} | {named} | {besides} | {what} |"


def numbers(text: str) -> list[int]:
    """0-3,7 as [0, 1, 2, 3, 7]."""
    ends = [part.partition("-") for part in text.split(",")]
    return [i for low, _, high in ends for i in range(int(low), int(high or low) + 1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=numbers, default=numbers("0-19"))
    parser.add_argument("--only", nargs="*", default=(), help="words of the names of runs")
    parsed = parser.parse_args()
    main(parsed.folder, parsed.seeds, parsed.only)
