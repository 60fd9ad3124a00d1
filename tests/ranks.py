"""Every algorithm on 1, 2 and 4 processes: `make ranks` prints how far their figures are from those of one process.

    python -m tests.ranks               the table; exits with 1 where a figure differs
    python -m tests.ranks 2 lora full   2 processes, with LoRA adapters, weights divided among them (FSDP2)

All processes of a job run on this machine, with torchrun and gloo, in float32. They train SFT and reward model as one
process does, and the policies from the very weights of SFT and reward model that the one process has made.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from plaudit.config import POLICIES
from tests import rank_job
from tests.tiny import labelled_texts, make_tokenizer

ROOT = Path(__file__).parent.parent
STAGES = ("sft", "reward_model", *POLICIES)
MODELS = {  # what learns, as settings
    "all layers": (),
    "top layer": tuple(f"{stage}.train_layers=1" for stage in STAGES),
    "lora": tuple(f"{stage}.lora_rank=2" for stage in STAGES),
}
MIXED = (  # each of them somewhere
    "reward_model.lora_rank=2", "ppo.train_layers=1", "reinforce.lora_rank=2", "grpo.lora_rank=2",
    "grpo.train_layers=1", "dpo.train_layers=1", "best_of_n.lora_rank=2",
)  # fmt: skip
STRATEGIES = {"none": "DDP", "full": "FSDP2"}
UPDATES = 8  # optimizer steps that an algorithm makes at least, so that a difference has time to grow
LIMIT = 1e-5  # of a figure, relative to its size where that is above 1
# Of a weight after all steps: where a gradient is near 0, Adam may turn the last digit into a step of another sign.
WEIGHTS = 2e-3
LOGS = ("metrics.jsonl", "rollouts.jsonl", "tokens.jsonl", "drawn.jsonl")
FILES = (*LOGS, "model.safetensors", "value_head.safetensors")  # of a stage: the same bytes when a job is repeated


class Difference(NamedTuple):
    """How far a stage on several processes is from the same on one."""

    figure: str  # the metric that differs most
    of_figures: float
    of_weights: float
    responses: int  # that were sampled
    others: int  # of them, those that differ
    updates: int  # optimizer steps

    @property
    def ok(self) -> bool:
        """Whether it is the same, apart from the order of sums, after enough optimizer steps."""
        same = self.of_figures <= LIMIT and self.of_weights <= WEIGHTS and not self.others
        return same and self.updates >= UPDATES


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """A tiny model and labelled texts to train it on."""
    model, data = folder / "model", folder / "data"
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    data.mkdir()
    (data / "train.tsv").write_text(labelled_texts(50), encoding="utf-8")
    return model, data


def command(processes: int) -> list[str]:
    """Python, or torchrun with so many processes."""
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def train(
    processes: int, inputs: tuple[Path, Path], jobs: Mapping[Path, Sequence[str]], start: Path | None = None
) -> None:
    """Start so many processes, which do one job after the other; what they print is in a log beside the first one.

    Args:
        jobs: the settings of each run directory, as NAME=VALUE.
        start: another run directory, from whose SFT and reward model the policies are trained.
    """
    begin = [f"start={start}"] if start else []
    words = [*command(processes), "-m", "tests.rank_job", *map(str, inputs)]
    for number, (out, settings) in enumerate(jobs.items()):
        words += [*["--"][:number], str(out), *settings, *begin]
    environment, path = os.environ | {"OMP_NUM_THREADS": "1"}, next(iter(jobs)).with_suffix(".log")
    with path.open("w", encoding="utf-8") as log:
        done = subprocess.run(words, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{path.read_text(encoding='utf-8')[-4000:]}")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def difference(one: Path, several: Path) -> Difference:
    """How two folders of a stage differ."""
    worst, figure, updates = 0.0, "", 0
    for a, b in zip(lines_of(one / "metrics.jsonl"), lines_of(several / "metrics.jsonl"), strict=True):
        assert a.keys() == b.keys()
        updates += round(a.get("optimizer_steps", 1))  # a line is a step where the stage learns from records
        for name, value in a.items():
            gap = abs(value - b[name]) / max(1.0, abs(value))
            if gap > worst:
                worst, figure = gap, name
    drawn = [name for name in ("rollouts.jsonl", "drawn.jsonl") if (one / name).exists()]
    pairs = [pair for name in drawn for pair in zip(lines_of(one / name), lines_of(several / name), strict=True)]
    others = sum(a["response"] != b["response"] for a, b in pairs)
    a, b = (load_file(folder / "model.safetensors") for folder in (one, several))
    weights = max((a[name] - b[name]).abs().max().item() for name in a)
    return Difference(figure, worst, weights, len(pairs), others, updates)


def made(run: Path, stage: str) -> Path:
    """What a job itself has made of a stage: its policies may have started from those of another job."""
    own = rank_job.own(run, stage)
    return own if own.exists() else run / stage


def compared(one: Path, several: Path) -> dict[str, Difference]:
    """How two run directories differ, by stage."""
    return {stage: difference(made(one, stage), made(several, stage)) for stage in STAGES}


def not_repeated(job: Path, again: Path) -> list[str]:
    """The files of two run directories of the same job that are not equal byte for byte, times apart."""
    names = ["evaluation.json", "responses.jsonl"]
    found = [name for name in names if _differ(job / name, again / name)]
    for stage in STAGES:
        folders = made(job, stage), made(again, stage)
        found += [f"{stage}: {name}" for name in FILES if _differ(*(folder / name for folder in folders))]
    return found


def _differ(one: Path, other: Path) -> bool:
    """Whether two files have other bytes, or only one is there."""
    if not (one.exists() and other.exists()):
        return one.exists() or other.exists()
    return content(one) != content(other)


def content(path: Path) -> bytes:
    """A file of a run without what differs in every run."""
    return re.sub(rb'"wall_seconds": {[^}]*}', b"", path.read_bytes())


def evaluation_differs(one: Path, several: Path) -> bool:
    """Whether two evaluations have other responses, or figures further apart than LIMIT."""
    a, b = (json.loads((run / "evaluation.json").read_text(encoding="utf-8")) for run in (one, several))
    texts = [[(line["sft"], line["policy"]) for line in lines_of(run / "responses.jsonl")] for run in (one, several)]
    gaps = [
        abs(a[model][name] - b[model][name])
        for model in ("sft", "policy")
        for name in ("score_mean", "kl_mean", "distinct_2", "length_mean")
    ]
    return texts[0] != texts[1] or max(gaps) > LIMIT


def main(words: list[str]) -> int:
    """Print the table; returns 1 where something differs."""
    sizes = [int(word) for word in words if word.isdigit()] or [2, 4]
    strategies = [name for name in STRATEGIES if name in words] or list(STRATEGIES)
    chosen = [name for name in MODELS if name in words or name.split()[0] in words] or list(MODELS)
    failed = 0
    print("| algorithm | what learns | strategy | processes | updates | largest difference of a figure | of a weight | "
          "other responses |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = make_inputs(folder)
        for name in chosen:
            one = folder / f"{name}-1"
            train(1, inputs, {one: MODELS[name]})
            for strategy, size in itertools.product(strategies, sizes):
                several, again = (folder / f"{name}-{strategy}-{size}{end}" for end in ("", "-again"))
                for out in (several, again):
                    train(size, inputs, {out: (*MODELS[name], f"sharding={strategy}")}, start=one)
                others = not_repeated(several, again)
                for stage, found in compared(one, several).items():
                    mark = "" if found.ok else " WRONG"
                    mark += " NOT REPEATED" if any(file.startswith(f"{stage}:") for file in others) else ""
                    failed += bool(mark)
                    print(
                        f"| {stage} | {name} | {STRATEGIES[strategy]} | {size} | {found.updates} | "
                        f"{found.of_figures:.1e} ({found.figure}) | {found.of_weights:.1e} | "
                        f"{found.others} of {found.responses}{mark} |",
                        flush=True,
                    )
                mark = "WRONG" if evaluation_differs(one, several) else "none"
                mark += " NOT REPEATED" if {"evaluation.json", "responses.jsonl"} & {*others} else ""
                failed += mark != "none"
                print(f"| evaluation | {name} | {STRATEGIES[strategy]} | {size} | | | | {mark} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
