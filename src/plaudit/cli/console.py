"""What a run came to, as tables and lines on stdout: colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plaudit.config import Config
from plaudit.errors import RunError
from plaudit.evaluation.report.words import (
    FRONTIER_HEADS,
    MEASURES,
    Measure,
    bracketed,
    duration,
    interval,
    number,
    point_cells,
    verdict,
    warnings,
    written,
)
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import MEMORY_FILE

_SHARES = {"accuracy": "{:.1%}", "eos_rate": "{:.0%}"}
_HEADLINE = tuple(m for m in MEASURES if m.key != "distinct_1")
_NEXT = {"sft": "plaudit reward-model --out {}", "reward_model": "plaudit ppo --out {}", "ppo": "plaudit eval {}"}
_SHOWN_SAMPLES = 5
_PAIRS = {"score": "score", "judge": "judge"}  # of seeds.json: SFT and policy
_SINGLE = {  # heads of columns, and names
    "reward_accuracy": ("reward", "accuracy of the reward model"),
    "kl": ("KL", "KL, nats"),
    "distinct_2_ratio": ("pairs", "different pairs, of SFT's"),
    "length_ratio": ("length", "length, of SFT's"),
    "duplicate_rate": ("copies", "copies"),
}


def summary(directory: Path, config: Config, seconds: dict[str, float]) -> None:
    """What a whole run came to: samples before and after, the figures, the times, and where to go from here."""
    console = new_console()
    rows = read_jsonl(directory / "samples.jsonl")
    if rows:
        table = _texts_table("prompt", "SFT", "policy")
        for row in rows[:_SHOWN_SAMPLES]:
            table.add_row(one_line(row["prompt"]), _scored(row, "sft"), _scored(row, "policy"))
        console.print(table)
        if len(rows) > _SHOWN_SAMPLES:
            console.print(f"{len(rows) - _SHOWN_SAMPLES} more in {directory / 'samples.jsonl'}\n", soft_wrap=True)
    headline(directory)

    known = _evaluation(directory)["meta"].get("wall_seconds")
    times = {stage: s for stage in known or {} if (s := number(known, stage)) is not None}
    times |= {stage: s for stage, s in seconds.items() if stage not in times}
    if times:
        each = ", ".join(f"{stage} {duration(s)}" for stage, s in times.items())
        console.print(f"\nTime: {each}; together {duration(sum(times.values()))}", soft_wrap=True)
    if known := _memory(directory):
        console.print(known, soft_wrap=True)
    console.print(f"Report: {directory / 'report.html'} (open it in a browser)", soft_wrap=True)

    run = "plaudit run"
    if config != Config():
        run += f" --config {shlex.quote(str(directory / 'config.toml'))}"
    beside = directory.parent
    closer = f"{2 * config.ppo.kl_coef or 0.05:g}"
    console.print("\nWhat next?", style="bold")
    for why, command in (
        ("hear more of both", f'plaudit sample {shlex.quote(str(directory))} "the film is"'),
        (
            "the same, another seed",
            f"{run} --seed {config.seed + 1} --out {_quoted(beside, f'seed-{config.seed + 1}')}",
        ),
        ("stay closer to SFT", f"{run} --ppo.kl-coef {closer} --out {_quoted(beside, f'kl-{closer}')}"),
        ("learn from your own texts", f"{run} --data FILE.csv --out {_quoted(beside, 'own-data')}"),
    ):
        console.print(f"  {why:<27}{command}", soft_wrap=True)


def _memory(directory: Path) -> str:
    """The most memory that the run took, beside what was predicted; empty where it was not measured."""
    path = directory / MEMORY_FILE
    stages = json.loads(path.read_text(encoding="utf-8")).values() if path.exists() else ()
    measured = max((stage["measured"] or 0 for stage in stages), default=0)
    predicted = max((stage["predicted"] for stage in stages), default=0)
    return f"Memory: {measured / 2**30:.1f} GiB at most, {predicted / 2**30:.1f} predicted" if measured else ""


def headline(directory: Path) -> None:
    """The figures of evaluation.json, SFT beside policy, each with what it means.

    Raises:
        RunError: evaluation.json is missing or malformed.
    """
    figures = _evaluation(directory)
    meta, console = figures["meta"], new_console()
    console.print(f"{meta.get('prompts', '?')} held-out prompts, seed {meta.get('seed', '?')}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "SFT", "policy", ""):
        table.add_column(name, no_wrap=name != "")
    for measure in _HEADLINE:
        before, after = (_measured(figures[who], measure) for who in ("sft", "policy"))
        table.add_row(measure.name, before, after, Text(measure.about, "dim"))
    console.print(table)
    console.print(verdict(figures, read_jsonl(directory / "ppo" / "metrics.jsonl"), None))
    for warning in warnings(figures):
        console.print(f"WARNING: {warning}", style="bold red")


def frontier(directory: Path) -> None:
    """Best-of-n and PPO's policies, and what they come to beside one another."""
    found, console = _read(directory / "frontier.json"), new_console()
    console.print("Best-of-n from SFT, and PPO by kl_coef and iteration, with 95% intervals", style="bold")
    points = (*found["best_of_n"], *found["ppo"])
    console.print(_plain_table(FRONTIER_HEADS, (point_cells(p, ("score", "judge")) for p in points)))
    for said in found["said"]:
        console.print(said, soft_wrap=True)
    if known := _memory(directory):
        console.print(known, soft_wrap=True)
    console.print(f"Report: {directory / 'report.html'} (open it in a browser)", soft_wrap=True)


def seeds(directory: Path, found: dict[str, Any]) -> None:
    """Every seed, the means with their intervals, and how many diverged."""
    console = new_console()
    rows = (
        (
            str(row["seed"]),
            *(f"{written(number(row, f'sft_{of}'), '{:.2f}')} → {written(number(row, of), '{:.2f}')}" for of in _PAIRS),
            *(written(number(row, of), "{:.2f}") for of in _SINGLE),
            "yes" if row["diverged"] else "no",
        )
        for row in found["seeds"]
    )
    console.print("SFT → policy; reward model's accuracy; different pairs and length of SFT's", style="bold")
    heads = (*_PAIRS.values(), *(head for head, _ in _SINGLE.values()))
    console.print(_plain_table(("seed", *heads, "diverged"), rows))
    names = {f"{of}_difference": f"{name}, policy minus SFT" for of, name in _PAIRS.items()}
    names |= {of: name for of, (_, name) in _SINGLE.items()}
    for of, figure in found["means"].items():
        ends = bracketed(interval(figure, "ci95"))
        console.print(f"{names[of]}: {written(figure['mean'], '{:.2f}')} {ends}", soft_wrap=True)
    for row in found["seeds"]:
        if row["diverged"]:
            console.print(f"seed {row['seed']}: {row['diverged']}", style="bold red", soft_wrap=True)
    console.print(f"{found['diverged']} of {len(found['seeds'])} diverged: {directory / 'seeds.json'}", soft_wrap=True)


def samples(prompt: str, rows: list[dict[str, Any]]) -> None:
    """Responses to one prompt side by side.

    Args:
        rows: each with `sft`, `sft_score`, `policy`, `policy_score`; scores in [-1, 1].
    """
    table = _texts_table("SFT", "policy")
    for row in rows:
        table.add_row(_scored(row, "sft"), _scored(row, "policy"))
    console = new_console()
    console.print(f"{one_line(prompt)} ...", style="bold", soft_wrap=True)
    console.print(table)


def checks(found: list[tuple[str, str]]) -> None:
    """The doctor's findings, a line each after its mark: ok, WARN or FAIL."""
    console = new_console()
    for mark, line in found:
        console.print(Text.assemble((f"{mark:<5}", "green" if mark == "ok" else "bold red"), line), soft_wrap=True)


def next_command(directory: Path, stage: str) -> None:
    """The command that follows a stage."""
    new_console().print(f"next: {_NEXT[stage].format(shlex.quote(str(directory)))}", soft_wrap=True)


def evaluation_text(directory: Path) -> str:
    """evaluation.json as it is.

    Raises:
        RunError: it is missing or malformed.
    """
    _evaluation(directory)
    return (directory / "evaluation.json").read_text(encoding="utf-8")


def one_line(text: str) -> str:
    """`text` without line breaks and control characters: a model may write anything, a terminal obeys it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def new_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: what a model wrote is neither markup nor emoji."""
    # Under torchrun every process runs the same command; the first one speaks.
    quiet = os.environ.get("RANK", "0") != "0"
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=quiet)


def result(directory: Path, stage: str) -> str:
    """One stage's result in a few words, from its files."""
    if stage == "ppo":
        steps = read_jsonl(directory / "ppo" / "metrics.jsonl")
        scores = [s for s in (number(line, "score") for line in steps) if s is not None]
        if not scores:
            return "done"
        change = f"{brief('score', scores[0])} -> {brief('score', statistics.fmean(scores[-10:]))}"
        return f"score {change} in training, KL {brief('kl', number(steps[-1], 'kl'))} nats per response"
    if stage == "evaluation":
        figures = _read(directory / "evaluation.json")
        before, after = (number(figures.get(who), "score_mean") for who in ("sft", "policy"))
        if before is None or after is None:
            return "done"
        return f"score {brief('score', before)} -> {brief('score', after)} on held-out prompts"
    figures = _read(directory / stage / "summary.json")
    if stage == "sft" and "perplexity" in figures:
        before, after = (number(figures, name) for name in ("perplexity_before", "perplexity"))
        return f"perplexity {brief('perplexity', before)} -> {brief('perplexity', after)} on held-out texts"
    if stage == "reward_model" and "accuracy" in figures:
        ends = interval(figures, "accuracy_ci95")
        span = f" ({brief('accuracy', ends[0])} to {brief('accuracy', ends[1])})" if ends else ""
        return f"accuracy {brief('accuracy', number(figures, 'accuracy'))}{span} on held-out data"
    return "done"


def brief(name: str, value: float | None) -> str:
    """The figure called `name`, short and in ASCII, for a line of a log; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if name in _SHARES:
        return _SHARES[name].format(value)
    if "score" in name:
        return f"{value:+.2f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=i + 1 < len(heads))
    for row in rows:
        table.add_row(*row)
    return table


def _measured(figures: dict[str, Any], measure: Measure) -> Text:
    text = Text(written(number(figures, measure.key), measure.form), "bold")
    ends = interval(figures, measure.key.replace("_mean", "_ci95"))
    if ends:
        text.append(f"\n{written(ends[0], measure.form)} to {written(ends[1], measure.form)}", "not bold dim")
    return text


def _scored(row: dict[str, Any], who: str) -> Text:
    score = number(row, f"{who}_score")
    style = "dim" if score is None else "green" if score > 0 else "red"
    return Text.assemble((brief("score", score), style), " ", one_line(str(row.get(who, ""))))


def _texts_table(*columns: str) -> Table:
    table = Table(*columns, box=box.SIMPLE_HEAD, leading=1, pad_edge=False)
    for column in table.columns[-2:]:
        column.ratio = 1
    return table


def _quoted(parent: Path, name: str) -> str:
    return shlex.quote(str(parent / name))


def _evaluation(directory: Path) -> dict[str, Any]:
    path = directory / "evaluation.json"
    figures = _read(path)
    if not figures:
        raise RunError(f"{path}: missing; make it with plaudit eval {shlex.quote(str(directory))}")
    for part in ("sft", "policy", "meta"):
        if not isinstance(figures.get(part), dict):
            raise RunError(f"{path}: has no '{part}'; make it anew with plaudit eval {directory} --overwrite")
    return figures


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file.

    Raises:
        RunError: it is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: is not JSON ({error}); remove it and make it again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: is not a JSON object; remove it and make it again")
    return content
