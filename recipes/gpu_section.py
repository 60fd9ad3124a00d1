"""The results of `recipes.gpu_check` as a section of docs/results.md."""

from __future__ import annotations

from typing import Any

from benchmarks.table import contenders, gib, machine, memory, settings, table


def section(results: dict[str, Any], size: str, texts: str, ranks: int) -> str:
    """The Markdown text.

    Args:
        results: what gpu.json has.
        size: of the models, in words.
        texts: what the benchmark reads, in words.
        ranks: processes of the part `ranks`.
    """
    about = results["machine"]["found"]
    parts = ["## On a GPU", f"`python -m recipes.gpu_check`: models of {size} with random weights."]
    if about:
        versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
        parts += [f"GPUs: {about['gpus']}; CUDA {about['cuda']}; {versions}.", machine(about["peaks"])]
    rows = [
        [name, f"{e['logprobs']:.1e}", f"{e['gradients']:.1e}", f"{e['equal_responses']} of {e['responses']}", mark(e)]
        for name, e in results["equality"]["found"].items()
    ]
    head = ("plain beside fast engine", "largest difference of logprobs, nats", "of gradients", "equal responses", "")
    parts.append(table(head, rows))
    if "ranks" in results:
        rows = [[name, *difference(e), mark(e)] for name, e in results["ranks"]["found"].items()]
        head = (f"{ranks} processes beside one, float32", "updates", "largest difference of a figure", "of a weight")
        parts.append(table((*head, "other responses", ""), rows))
    else:
        parts.append("Jobs of several processes were not run: they need two GPUs.")
    rows = [
        [name, f"{e['steps']}", f"{e['seconds']:.1f}", gib(e["peak_memory"]), mark(e)]
        for name, e in results["algorithms"]["found"].items()
    ]
    parts.append(table(("algorithm, bfloat16", "steps", "seconds", "peak memory", ""), rows))
    parts += [f"The benchmark, in bfloat16; its texts are {texts}.", contenders(results["updates"])]
    parts.append(settings(results["updates"]))
    head = ("trainer, bfloat16", "plaudit, tokens/s", "plaudit's memory")
    parts.append(table(head, [trainer(row) for row in results["trainers"]]))
    parts += [f"{name}: {each['error']}" for name, each in results.items() if isinstance(each, dict) and each["error"]]
    return "\n\n".join(filter(None, parts))


def mark(entry: dict[str, Any]) -> str:
    """The last cell of a row."""
    return entry.get("error") or ("ok" if entry["ok"] else "WRONG")


def difference(e: dict[str, Any]) -> list[str]:
    """The cells of a `tests.ranks.Difference`; empty ones where there is none."""
    if "of_figures" not in e:
        return [""] * 4
    figure = f"{e['of_figures']:.1e} ({e['figure']})"
    return [f"{e['updates']}", figure, f"{e['of_weights']:.1e}", f"{e['others']} of {e['responses']}"]


def trainer(row: dict[str, Any]) -> list[str]:
    """The row of one of plaudit's trainers."""
    if "error" in row:
        return [row["name"], row["error"], ""]
    return [row["name"], f"{sum(row['tokens']) / sum(row['seconds']):.0f}", gib(memory(row))]
