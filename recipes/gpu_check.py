"""What there is to know about plaudit on a GPU, in ten minutes: equality, every algorithm in bfloat16, and speed.

    python -m recipes.gpu_check                                         # the GPU, models of GPT-2's size
    python -m recipes.gpu_check --size tiny --device cpu --minutes 2    # does the script itself work?

It needs plaudit, installed from this repository, and no network. Its parts have processes of their own, until the time
is over:

- machine: names, versions, and the speed of matrix products and copies;
- equality: log-probabilities, gradients and sampled tokens of the plain and the fast engine, in float32 and bfloat16;
- ranks, with several GPUs: the jobs of `make ranks` with a process for each GPU, whole and sharded, beside one process;
- algorithms: some steps of each, from one base model, with `plaudit.steps`: whether the figures are finite, seconds,
  and the peak of the GPU's memory;
- benchmark: the rows of `make bench`, but for TRL, on this device.

The benchmark reads SST-2 from the folder --data where that has it, and random token ids otherwise. Results are in
OUT/gpu.json after every part. OUT/gpu.md, which is also printed, is a section for docs/results.md. What there was no
time for is named.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.options import DATA, DATA_FILES, RANDOM
from recipes.gpu_section import section

ROOT = Path(__file__).parent.parent
LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}  # of log-probabilities in nats, and of gradients relative to their norm
SMALL = {  # a few steps of each algorithm
    "prompt_max": 4, "evaluation.prompts": 16, "sft.epochs": 1, "reward_model.epochs": 1,
    **{f"{name}.iterations": 3 for name in ("ppo", "reinforce", "rloo", "grpo")},
    **{f"{name}.batch_size": 32 for name in ("ppo", "reinforce", "rloo", "grpo")},
    **{f"{name}.minibatch_size": 8 for name in ("ppo", "reinforce", "rloo", "grpo")},
    **{f"{name}.max_new_tokens": 16 for name in ("ppo", "reinforce", "rloo", "grpo", "dpo", "kto", "best_of_n")},
    **{f"{name}.responses": 64 for name in ("dpo", "kto", "best_of_n")},
}  # fmt: skip


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Names and versions, how many GPUs there are to use, and the peaks of `make bench`."""
    import torch

    from benchmarks.contender import device_of
    from benchmarks.machine import measure
    from plaudit.training.versions import versions

    device = device_of(options)
    few = {} if options.size == "gpt2" else {"side": 64, "copied": 1 << 16, "seconds": 0.0}
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    return {"gpus": gpus, "cuda": torch.version.cuda, "versions": versions(), "peaks": measure(device, **few)}


def ranks(options: argparse.Namespace) -> dict[str, Any]:
    """How far every algorithm with a process for each GPU is from one process, whole and sharded."""
    from benchmarks.contender import device_of
    from tests import ranks as jobs

    until, folder, found = time.monotonic() + options.seconds, options.out / "ranks", {}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    inputs, one = jobs.make_inputs(folder), folder / "1"
    mixed = [words for words in jobs.MIXED if "lora" not in words or find_spec("peft")]
    settings = (*mixed, f"device={device_of(options).type}")
    jobs.train(1, inputs, {one: settings})
    for strategy, name in jobs.STRATEGIES.items():
        several = folder / strategy
        if time.monotonic() > until:
            found[name] = {"error": NO_TIME, "ok": True}
            continue
        try:
            jobs.train(options.ranks, inputs, {several: (*settings, f"sharding={strategy}")}, start=one)
        except RuntimeError as error:
            found[name] = {"error": f"failed; see {several.with_suffix('.log')}", "ok": False}
            print(error, file=sys.stderr)
            continue
        for stage, gap in jobs.compared(one, several).items():
            found[f"{stage}, {name}"] = gap._asdict() | {"error": "", "ok": gap.ok}
        same = not jobs.evaluation_differs(one, several)
        found[f"evaluation, {name}"] = {"error": "" if same else "other responses or figures", "ok": same}
        print(json.dumps(found), flush=True)
    return found


def equality(options: argparse.Namespace) -> dict[str, Any]:
    """Largest differences between the engines, by format."""
    import torch

    from benchmarks.contender import device_of
    from benchmarks.workload import make, saved_models
    from plaudit import rng
    from plaudit.models.fast.engine import FastEngine
    from plaudit.models.loading import load_causal_lm
    from plaudit.models.plain import PlainEngine
    from plaudit.models.policy import Policy
    from plaudit.models.tokenizer import Tokenizer
    from plaudit.training.rollouts import generate

    work, device, found = make(options.size, options.data), device_of(options), {}
    folder = saved_models(work, options.out)[0]
    tokenizer = Tokenizer(None, None, work.eos_id, 0)
    noise = rng.uniforms(range(len(work.prompts)), work.longest, 1, "gpu_check", 0, "responses", 0)
    for name in LIMITS:
        sampled, logprobs, gradients, seconds = [], [], [], []
        for engine in (PlainEngine(getattr(torch, name)), FastEngine(getattr(torch, name), options.out)):
            lm = load_causal_lm(folder).to(device)
            engine.prepare(lm)
            policy = Policy(lm, engine, value_head=False).eval()
            began = time.perf_counter()
            sampled.append(generate(policy, [list(p) for p in work.prompts], noise, tokenizer, 1.0))
            responses = sampled[0]  # both score the same ones
            scored, _ = policy(responses.ids, responses.attention_mask, responses.response_mask, temperature=1.0)
            scored.sum().backward()
            logprobs.append(scored.detach().float().cpu())
            parts = [p.grad.float().flatten().cpu() for p in policy.parameters() if p.grad is not None]
            gradients.append(torch.cat(parts))
            seconds.append(time.perf_counter() - began)
        same = [a == b for a, b in zip(sampled[0].tokens(), sampled[1].tokens(), strict=True)]
        gap = (logprobs[0] - logprobs[1]).abs().max().item()
        relative = ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item()
        found[name] = {
            "logprobs": gap, "gradients": relative, "equal_responses": sum(same), "responses": len(same),
            "seconds": seconds, "ok": max(gap, relative) <= LIMITS[name],
        }  # fmt: skip
    return found


def algorithms(options: argparse.Namespace) -> dict[str, Any]:
    """What a few steps of each algorithm, and the evaluation, have given."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    import plaudit
    from benchmarks.contender import device_of, peak_memory
    from benchmarks.workload import SHAPES
    from plaudit.config import POLICIES, default_settings
    from plaudit.models.loading import load_tokenizer

    warnings.simplefilter("ignore")
    until, base, cuda = time.monotonic() + options.seconds, options.out / "base", device_of(options).type == "cuda"
    tokenizer = load_tokenizer("movie-gpt2")
    shape = {name: value for name, value in SHAPES[options.size].items() if name not in ("vocab_size", "n_positions")}
    ids = {"vocab_size": len(tokenizer.hf), "bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(**shape | ids)).save_pretrained(base)
    tokenizer.hf.save_pretrained(base)
    known = default_settings()
    settings = {name: value for name, value in SMALL.items() if name in known} | {
        "model": str(base), "device": options.device, "dtype": "bfloat16",
    }  # fmt: skip
    run, found = plaudit.open_run(options.out / "run", options.texts, settings, overwrite=True), {}
    for stage in ("sft", "reward_model", *POLICIES, "evaluation"):
        if time.monotonic() > until:
            late = {"steps": 0, "seconds": 0.0, "finite": True, "error": NO_TIME, "peak_memory": 0, "ok": True}
            found[stage] = late
            continue
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        began, steps, finite, error = time.perf_counter(), 0, True, ""
        try:
            for report in plaudit.steps(run, [stage]):
                steps += 1
                finite &= all(math.isfinite(value) for value in report.metrics.values() if value is not None)
        except Exception as raised:
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:300]}"
        found[stage] = {
            "steps": steps, "seconds": time.perf_counter() - began, "finite": finite, "error": error,
            "peak_memory": torch.cuda.max_memory_allocated() if cuda else peak_memory(),
            "ok": finite and not error and steps > 0,
        }  # fmt: skip
        print(json.dumps(found), flush=True)
    return found


NO_TIME = "no time left"
LOOP = "notebook-style loop"
PARTS = {"machine": machine, "equality": equality, "ranks": ranks, "algorithms": algorithms}
CHECKS = ("equality", "ranks", "algorithms")  # parts whose entries are right or wrong


def plans(size: str) -> dict[str, dict[str, list[str]]]:
    """What starts each row of `make bench`: PPO updates and trainers, in bfloat16 where they do not say otherwise."""
    layers, steps = ("2", "10") if size == "gpt2" else ("1", "2")
    few = ["--updates", "2"] if size == "gpt2" else ["--updates", "1", "--epochs", "1"]
    ours, top, train = ["ours", *few], ["--train-layers", layers], ["our_trainers", *few, "--steps", steps, "--task"]
    lora = {"plaudit, LoRA 8": [*ours, "--lora", "8"]} if find_spec("peft") else {}
    return {
        "updates": {
            "plaudit": ours,
            LOOP: ["notebook_loop", *few],
            f"plaudit, top {layers} layers": [*ours, *top],
            "plaudit, float32": [*ours, "--dtype", "float32"],
            **lora,
        },
        "trainers": {
            **{name: [*train, name] for name in ("sft", "sft-packed", "reward-model", "dpo", "grpo", "rloo")},
            **{f"{name}, top {layers} layers": [*train, name, *top] for name in ("grpo", "rloo")},
        },
    }


def part(command: list[str], log: Path, seconds: float) -> dict[str, Any]:
    """The JSON object in the last line that a process prints before its time is over; "error" says what went wrong."""
    began, error = time.perf_counter(), ""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            printed = process.communicate(timeout=max(seconds, 1.0))[0]
            error = f"exit status {process.returncode}; see {log}" if process.returncode else ""
        except BaseException as late:
            os.killpg(process.pid, signal.SIGKILL)  # ranks of torchrun notice within 30 s
            if not isinstance(late, subprocess.TimeoutExpired):
                raise
            printed, error = process.communicate()[0], f"not finished after {seconds:.0f} s"
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if not lines and not error:
        error = f"printed nothing; see {log}"
    return {"found": json.loads(lines[-1]) if lines else {}, "error": error, "seconds": time.perf_counter() - began}


def benchmark(rows: dict[str, list[str]], shared: list[str], out: Path, until: float) -> list[dict[str, Any]]:
    """The records of some rows of the benchmark, as far as there is time, in the form that benchmarks.table reads."""
    records = []
    for name, (module, *own) in rows.items():
        record, left = {"name": name, "ours": name != LOOP}, until - time.monotonic()
        if left < 5:
            records.append(record | {"error": NO_TIME})
            continue
        log = out / f"benchmark-{name.replace(',', '').replace(' ', '-')}.log"
        command = [sys.executable, "-m", f"benchmarks.{module}", *shared, "--dtype", "bfloat16", *own]
        found = part([*command, "--work", str(out)], log, left)
        records.append(found["found"] | record | ({"error": found["error"]} if found["error"] else {}))
    return records


def failed(results: dict[str, Any]) -> bool:
    """Whether something is wrong, apart from what there was no time for."""
    entries = [e for name in CHECKS if name in results for e in results[name]["found"].values()]
    records = [row for name in ("updates", "trainers") for row in results.get(name, [])]
    errors = [each.get("error", "") for each in (*(results[name] for name in PARTS if name in results), *records)]
    return not entries or not all(e["ok"] for e in entries) or any("exit status" in error for error in errors)


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Without --data it is the folder beside the repository, or RANDOM where that is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for results and models")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--size", choices=("gpt2", "tiny"), default="gpt2")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--data", type=Path, help="of the benchmark: sst2/ and gpt2-tokenizer/; random: random ids")
    parser.add_argument("--texts", default="movie-reviews", help="what the algorithms learn from, as in plaudit.load")
    parser.add_argument("--ranks", type=int, help="processes of the part ranks; without it, the number of GPUs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.data is None:
        beside = ROOT / DATA
        options.data = beside if all((beside / name).exists() for name in DATA_FILES) else RANDOM
    if options.data != RANDOM:
        options.data = options.data.absolute()
    options.out = options.out.absolute()
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the parts, each for at most its share of the time; 1 if something is wrong."""
    options = parsed(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return 0
    began, results = time.monotonic(), {}
    until = began + 60 * options.minutes
    shared = ["--size", options.size, "--device", options.device, "--data", str(options.data)]
    own = [sys.executable, "-m", "recipes.gpu_check", *shared, "--out", str(options.out), "--texts", options.texts]
    for name, share in {"machine": 0.1, "equality": 0.2, "ranks": 0.35, "algorithms": 0.6}.items():  # of what is left
        if name == "ranks" and options.ranks < 2:
            continue
        seconds = share * (until - time.monotonic())
        more = ["--part", name, "--seconds", str(seconds * 0.8), "--ranks", str(options.ranks or 0)]
        results[name] = part([*own, *more], options.out / f"{name}.log", seconds)
        if options.ranks is None:
            options.ranks = results["machine"]["found"].get("gpus", 0)
        keep(results, options.out)
    for name, rows in plans(options.size).items():
        results[name] = benchmark(rows, shared, options.out, until)
        keep(results, options.out)
    size = "GPT-2's size" if options.size == "gpt2" else "tiny size"
    with_data = options.size == "gpt2" and options.data != RANDOM
    texts = "those of SST-2" if with_data else "random token ids, 9 to 14 in a text, because they need no data"
    text = section(results, size, texts, options.ranks)
    (options.out / "gpu.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nminutes: {(time.monotonic() - began) / 60:.1f}")
    return int(failed(results))


def keep(results: dict[str, Any], out: Path) -> None:
    """Write what there is."""
    (out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
