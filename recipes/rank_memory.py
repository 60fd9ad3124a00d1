"""Memory of each process at GPT-2's size, with whole and with divided weights, beside what the formula says.

    python -m recipes.rank_memory                    # 1, 2 and 4 processes on this machine: some minutes, 16 GiB
    python -m recipes.rank_memory --processes 2
    python -m recipes.rank_memory --derived          # measures nothing: the formula for models of 1B, 8B and 70B

A policy in float32 whose layers all learn, and a frozen reference. Each process starts from the same random weights.
Its peak is what Linux counted as resident (VmHWM, set back before each phase) less what it held before the models.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

from plaudit.batches import Sequences
from plaudit.maths.losses import causal_lm_loss
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import layers
from plaudit.models.policy import Policy
from plaudit.models.sharding import gathered, unsharded
from plaudit.training import dist, memory
from plaudit.training.optimizer import accumulate, adamw, step

ROWS, TOKENS, NEW = 16, 64, 32  # of a batch; tokens of a text, and of a response
KEPT = 18  # float32 numbers that a layer keeps for the backward pass, a token and unit of width (counted for GPT-2)
PHASES = ("models", "update", "scoring", "sampling")
CPU = torch.device("cpu")
LLAMA = {  # the published shapes of Llama 3.2 (1B) and Llama 3 (8B, 70B)
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    },
    "70B": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    },
}  # fmt: skip
GPUS = tuple(2**power for power in range(1, 10))  # 2 to 512


class Shape(NamedTuple):
    """What the formula needs to know of a model; numbers of weights."""

    outside: int  # of the layers: embeddings, last norm, output embedding
    layer: int
    depth: int
    width: int
    vocabulary: int

    @property
    def whole(self) -> int:
        """All weights."""
        return self.outside + self.depth * self.layer


def shape_of(lm: Any) -> Shape:
    """The shape of a model."""
    layer = sum(p.numel() for p in layers(lm)[0].parameters())
    outside = sum(p.numel() for p in lm.parameters()) - len(layers(lm)) * layer
    return Shape(outside, layer, len(layers(lm)), lm.config.hidden_size, lm.config.vocab_size)


def formula(shape: Shape, strategy: str, n: int, rows: int = ROWS, frozen: int = 1) -> dict[str, int]:
    """Bytes of each of n processes in each phase, in float32.

    Args:
        rows: of the whole batch.
        frozen: models beside the policy: reference and reward models.
    """
    share = n if strategy == "full" and n > 1 else 1
    mine, divided = -(-rows // n), share > 1
    models = 4 * (1 + frozen) * shape.whole // share
    gradients, moments = 4 * shape.whole // share, 8 * shape.whole // share
    weights, reduced = gathered(shape.outside, shape.layer) if divided else (0, 0)
    activations = 4 * KEPT * shape.width * shape.depth * mine * TOKENS
    logits = 4 * 4 * min(mine * TOKENS * shape.vocabulary, 2**26)
    buffer = 4 * shape.outside if divided else 0  # in which the largest part arrives
    keys_and_values = 4 * 2 * shape.width * shape.depth * mine * TOKENS
    return {
        "models": models,
        "update": models + gradients + moments + weights + max(reduced, activations + logits),
        "scoring": models + moments + weights + buffer,
        "sampling": models + moments + (4 * shape.whole if divided else 0) + buffer + keys_and_values,
    }


def llama(size: str) -> Shape:
    """The shape of a model in LLAMA, which is not put into memory."""
    with torch.device("meta"):
        config = LlamaConfig(**LLAMA[size], num_key_value_heads=8, vocab_size=128256)
        return shape_of(AutoModelForCausalLM.from_config(config))


def derived() -> str:
    """The formula for policies of LLAMA's shapes with a reference and a reward model, without activations."""
    shapes = {size: llama(size) for size in LLAMA}
    billions = {size: [n / 1e9 for n in (s.whole, s.outside, s.layer)] for size, s in shapes.items()}
    heads = [f"{size}: N {n:.2f}, E {e:.2f}, L {layer:.3f}" for size, (n, e, layer) in billions.items()]
    rows = [f"| GPUs | sharding | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for n in (1, *GPUS):
        cells = []
        for shape in shapes.values():
            found = formula(shape, "full", n, rows=0, frozen=2)
            cells.append(" / ".join(f"{found[phase] / 2**30:,.1f}" for phase in ("update", "sampling")))
        rows.append(f"| {n} | {'full' if n > 1 else 'none, with any number of GPUs'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def peak_of(call: Callable[[], Any]) -> int:
    """The most bytes that this process had while it ran."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    call()
    return memory.peak(CPU) or 0


def job(strategy: str, out: Path) -> None:
    """What each process does; leaves its peaks in a file."""
    torch.set_num_threads(1)
    dist.start()
    (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()
    dist.gather(None)
    base = memory.held(CPU)
    engine = FastEngine(torch.float32, out.parent)
    held: list[Any] = []

    def make(*, learns: bool) -> Any:
        torch.manual_seed(0)
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=50257)).eval().requires_grad_(learns)
        dist.wrap(lm, strategy)
        return lm

    def load() -> None:
        held.extend((make(learns=True), make(learns=False)))
        engine.prepare(*held)

    loading = peak_of(load)
    found = {"models": memory.held(CPU)}
    lm, reference = held
    shape = shape_of(lm)
    policy = Policy(lm, engine)
    optimizer = adamw(policy, 1e-4)
    ids = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS) % 50000
    mask = torch.ones_like(ids, dtype=torch.bool)
    batch = Sequences(ids, mask, mask)

    def loss(some: Sequences) -> Any:
        wanted = some.loss_mask[:, 1:]
        return causal_lm_loss(policy(some.ids, some.attention_mask, wanted)[0], wanted), {}

    def learn() -> None:
        accumulate(batch, 0, loss, ROWS * (TOKENS - 1), "a step", policy)
        step(optimizer, policy, 1.0, "a step")

    def score() -> None:
        mine = ids[list(dist.rows(ROWS))]
        seen = torch.ones_like(mine, dtype=torch.bool)
        with torch.no_grad():
            for each in (lm, reference):
                engine.logprobs(each, mine, seen, seen[:, -NEW:])

    def sample() -> None:
        mine = ids[list(dist.rows(ROWS)), : TOKENS - NEW]
        noise = torch.full((len(mine), NEW), 0.5, dtype=torch.float64)
        with unsharded(lm, layers_too=True):
            engine.generate(lm, mine, torch.ones_like(mine, dtype=torch.bool), noise, [0], 0)

    learn()
    for name, call in (("update", learn), ("scoring", score), ("sampling", sample)):
        found[name] = peak_of(call)
    peaks = {name: size - base for name, size in found.items()}
    everywhere = dist.gather(peaks | {"loading": loading - base})
    if dist.rank() == 0:
        worst = {name: max(each[name] for each in everywhere) for name in everywhere[0]}
        out.write_text(json.dumps({"measured": worst, "shape": shape}), encoding="utf-8")


def measured(strategy: str, n: int) -> dict[str, Any]:
    """The peaks of n processes, the largest of each phase, and the shape of the model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peaks.json"
        words = [sys.executable]
        if n > 1:
            words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
        words += ["-m", "recipes.rank_memory", "--job", strategy, "--out", str(out)]
        # Freed blocks of a megabyte and more go back to the system at once, so that they are not counted.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
        subprocess.run(words, env=environment, check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="how many, one job after the other")
    parser.add_argument("--sharding", nargs="+", default=["none", "full"], choices=("none", "full"))
    parser.add_argument("--derived", action="store_true", help="the formula for larger models; measures nothing")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return job(args.job, args.out)
    if args.derived:
        print(derived())
        return None
    print("| sharding | processes | " + " | ".join(f"{phase}: measured (formula)" for phase in PHASES) + " |")
    print("|---|---|" + "---|" * len(PHASES))
    for strategy in args.sharding:
        for n in args.processes:
            if n == 1 and strategy == "full" and "none" in args.sharding:
                continue  # the same
            found = measured(strategy, n)
            expected = formula(Shape(*found["shape"]), strategy, n)
            cells = [f"{found['measured'][p] / 2**30:.2f} ({expected[p] / 2**30:.2f})" for p in PHASES]
            print(f"| {strategy} | {n} | {' | '.join(cells)} |", flush=True)
    return None


if __name__ == "__main__":
    main()
