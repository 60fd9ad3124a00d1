"""Results of a run, as tables and lines on stdout: colour on a terminal, plain text elsewhere."""

import json
import shlex
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plaudit.cli.progress import brief, new_console, one_line
from plaudit.config import POLICIES, default_settings
from plaudit.errors import RunError
from plaudit.evaluation.diagnosis import diagnose
from plaudit.evaluation.report.words import (
    REWARD_MODEL,
    Measure,
    beside_accuracy,
    duration,
    interval,
    measures,
    number,
    policy_of,
    reward_phrase,
    verdict,
    warnings,
    warnings_of,
    written,
)
from plaudit.training.metrics import read_jsonl

_SHOWN_SAMPLES = 5


def summary(directory: Path, settings: dict[str, Any], seconds: dict[str, float]) -> None:
    """The result of a whole run: samples of both models, the figures, the times, and what to do next.

    `settings` are by full name; `seconds` are those of stages of which evaluation.json may have none.
    """
    console = new_console()
    rows = read_jsonl(directory / "samples.jsonl")
    if rows:
        _print_samples(console, rows[:_SHOWN_SAMPLES], "prompt")
        if len(rows) > _SHOWN_SAMPLES:
            console.print(f"{len(rows) - _SHOWN_SAMPLES} more in {directory / 'samples.jsonl'}\n", soft_wrap=True)
    headline(directory)

    known = evaluation(directory)["meta"].get("wall_seconds") or {}
    if times := known | seconds | known:
        each = ", ".join(f"{stage} {duration(time)}" for stage, time in times.items())
        console.print(f"\nTime: {each}; together {duration(sum(times.values()))}", soft_wrap=True)
    print_files(console, directory)

    run = "plaudit run"
    if settings != default_settings():
        run += f" --config {shlex.quote(str(directory / 'config.toml'))}"
    seed, closer = settings["seed"] + 1, f"{2 * settings['ppo.kl_coef'] or 0.05:g}"
    console.print("\nWhat next?", style="bold")
    for why, command, folder in (
        ("see more responses", f"plaudit sample {{}} {_short_prompt(rows)}", directory.name),
        ("the same, another seed", f"{run} --seed {seed} --out {{}}", f"seed-{seed}"),
        ("stay closer to SFT", f"{run} --ppo.kl-coef {closer} --out {{}}", f"kl-{closer}"),
        ("train on your own texts", f"{run} --data FILE.csv --out {{}}", "own-data"),
    )[: 4 if settings["data.name"] == default_settings()["data.name"] else 3]:
        console.print(f"  {why:<27}{command.format(shlex.quote(str(directory.parent / folder)))}", soft_wrap=True)


def _short_prompt(rows: list[dict[str, Any]]) -> str:
    """The first short prompt of samples.jsonl as a word of a shell; a placeholder if there is none."""
    prompts = (str(row.get("prompt", "")) for row in rows)
    short = (p for p in prompts if 0 < len(p) <= 40 and p == one_line(p) and not set("{}'") & set(p))
    return shlex.quote(next(short, "PROMPT"))


def headline(directory: Path) -> None:
    """The figures of evaluation.json, SFT model beside policy, each with what it means."""
    figures, console = evaluation(directory), new_console()
    meta = figures["meta"]
    console.print(f"{meta.get('prompts', '?')} held-out prompts, seed {meta.get('seed', '?')}", style="bold")
    reward = meta.get("reward") or REWARD_MODEL
    bounds = interval({"score_range": (-1, 1) if reward == REWARD_MODEL else None} | meta, "score_range")
    rows: list[tuple[str | Text, ...]] = [
        (m.name, _measured(figures["sft"], m), _measured(figures["policy"], m), Text(m.about, "dim"))
        for m in measures(reward, bounds)
        if m.key != "distinct_1"
    ]
    rows[1:1] = _parts(figures)  # below the score
    console.print(new_table(("", "SFT", "policy", ""), rows))
    stage = policy_of(figures) or POLICIES[0]
    console.print(verdict(figures, read_jsonl(directory / stage / "metrics.jsonl"), None, stage))
    for warning in warnings(figures):
        console.print(f"WARNING: {warning}", style="bold red")


def other_reward(beside: dict[str, Any]) -> None:
    """SFT model and policy by a reward that the policy was not trained for: the `other_reward` of `beside`, if any."""
    if not (figures := beside.get("other_reward")):
        return
    meta, console = figures["meta"], new_console()
    measure = measures(meta["reward"], interval(meta, "score_range"))[0]
    console.print(f"\nScored by {reward_phrase(meta['reward'])}; the policy was trained for another", style="bold")
    row: tuple[str | Text, ...] = (
        measure.name,
        *(_measured(figures[side], measure) for side in ("sft", "policy")),
        Text(measure.about, "dim"),
    )
    console.print(new_table(("", "SFT", "policy", ""), [row, *_parts(figures)]))


def _parts(figures: dict[str, Any]) -> list[tuple[str | Text, ...]]:
    """A row for each part of a reward with several: means of SFT model and policy."""
    sides = [figures[side].get("parts") or {} for side in ("sft", "policy")]
    about = Text("Mean of this part of the score, before its weight.", "dim")
    return [
        (f"  {name}", *(Text(written(number(parts, name), "{:.2f}"), "bold") for parts in sides), about)
        for name in (sides[1] if len(sides[1]) > 1 else ())
    ]


def samples(prompt: str, rows: list[dict[str, Any]]) -> None:
    """Responses to one prompt side by side: rows with `sft`, `sft_score`, `policy` and `policy_score`."""
    console = new_console()
    console.print(f"{one_line(prompt)} ...", style="bold", soft_wrap=True)
    _print_samples(console, rows)


def checks(found: list[tuple[str, str]]) -> None:
    """The preflight checks, a line each after its mark: ok, WARN or FAIL."""
    console = new_console()
    for mark, line in found:
        console.print(Text.assemble((f"{mark:<5}", "green" if mark == "ok" else "bold red"), line), soft_wrap=True)


def next_command(directory: Path) -> None:
    """The command of the next stage that the run in a directory needs for its reward."""
    from plaudit.training.rewards import needs_reward_model
    from plaudit.training.run import Run

    run, command = Run.existing(directory), "ppo --out"
    if any(run.complete(policy) for policy in POLICIES):
        command = "eval"
    elif needs_reward_model(run) and not run.complete("reward_model"):
        command = "reward-model --out" if run.judged.train.judged else "ppo --reward FILE.py:NAME --out"
    new_console().print(f"next: plaudit {command} {shlex.quote(str(directory))}", soft_wrap=True)


def result(directory: Path, stage: str) -> str:
    """One stage's result in a few words, from its files."""

    def change(name: str, before: float | None, after: float | None) -> str:
        return f"{name} {brief(name, before)} -> {brief(name, after)}"

    if stage == "evaluation":
        figures = read(directory / "evaluation.json")
        means = [number(figures.get(model), "score_mean") for model in ("sft", "policy")]
        return "done" if None in means else f"{change('score', *means)} on held-out prompts"
    figures = read(directory / stage / "summary.json")
    if "perplexity" in figures:
        before, after = number(figures, "perplexity_before"), number(figures, "perplexity")
        if figures.get("texts") == 0:
            return "nothing to imitate, the model as it is"
        return f"{change('perplexity', before, after)} on held-out texts"
    if "accuracy" in figures:
        ends = interval(figures, "accuracy_ci95")
        span = f" ({' to '.join(brief('accuracy', end) for end in ends)})" if ends else ""
        return f"accuracy {brief('accuracy', number(figures, 'accuracy'))}{span} on held-out data"
    steps = [step for step in read_jsonl(directory / stage / "metrics.jsonl") if number(step, "score") is not None]
    if not steps:
        return "done"
    scored = change("score", steps[0]["score"], statistics.fmean(step["score"] for step in steps[-10:]))
    return f"{scored} in training, KL {brief('kl', number(steps[-1], 'kl'))} nats per response"


def details(directory: Path, stage: str) -> list[Text]:
    """Lines below a stage's result: what trivial rules and people reach beside a reward model, warnings, and faults."""
    figures = read(directory / stage / "summary.json")
    rows = beside_accuracy(figures)
    faults = [finding.sentence for finding in diagnose(directory) if finding.stage == stage]
    return [
        *(Text(f"  {name:<44}{brief('accuracy', share)}") for name, share, _ in rows),
        *(Text(f"WARNING: {warning}", "bold red") for warning in (*warnings_of(figures), *faults)),
    ]


def print_files(console: Console, directory: Path) -> None:
    """The most memory that the run took, where it was measured, and the report."""
    stages = read(directory / "memory.json").values()
    if measured := max((stage["measured"] or 0 for stage in stages), default=0):
        predicted = max(stage["predicted"] for stage in stages)
        console.print(f"Memory: {measured / 2**30:.1f} GiB at most, {predicted / 2**30:.1f} predicted", soft_wrap=True)
    console.print(f"Report: {directory / 'report.html'} (open it in a browser)", soft_wrap=True)


def _print_samples(console: Console, rows: list[dict[str, Any]], *more: str) -> None:
    """A table of responses with their scores, after columns with these keys of the rows."""

    def scored(row: dict[str, Any], model: str) -> Text:
        score = brief("score", number(row, f"{model}_score"))
        return Text.assemble((score, "bold"), " ", one_line(str(row.get(model, ""))))

    table = Table(*more, "SFT", "policy", box=box.SIMPLE_HEAD, leading=1, pad_edge=False)
    table.columns[-2].ratio = table.columns[-1].ratio = 1
    for row in rows:
        table.add_row(*(one_line(str(row[key])) for key in more), scored(row, "sft"), scored(row, "policy"))
    console.print(table)


def new_table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table in which only the last column may wrap."""
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*row)
    return table


def _measured(figures: dict[str, Any], measure: Measure) -> Text:
    text = Text(written(number(figures, measure.key), measure.form), "bold")
    if ends := interval(figures, measure.key.replace("_mean", "_ci95")):
        text.append(f"\n{written(ends[0], measure.form)} to {written(ends[1], measure.form)}", "not bold dim")
    return text


def evaluation(directory: Path) -> dict[str, Any]:
    """Contents of evaluation.json; a RunError if it is missing or malformed."""
    path, again = directory / "evaluation.json", f"plaudit eval {shlex.quote(str(directory))}"
    figures = read(path)
    if not figures:
        raise RunError(f"{path}: missing; make it with {again}")
    for part in ("sft", "policy", "meta"):
        if not isinstance(figures.get(part), dict):
            raise RunError(f"{path}: has no '{part}'; make it again with {again} --overwrite")
    return figures


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, and a RunError if there is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: is not JSON ({error}); remove it and make it again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: is not a JSON object; remove it and make it again")
    return content
