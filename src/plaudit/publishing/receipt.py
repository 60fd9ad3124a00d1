"""A receipt: one page with what a run was made from and what came out, and a check of it on another machine."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.config import flatten, heading, known_settings
from plaudit.errors import RunError
from plaudit.evaluation.metrics import strict
from plaudit.evaluation.report.words import bracketed, interval, number, policy_of, written
from plaudit.files import sha256, write_atomic
from plaudit.maths.intervals import wilson
from plaudit.models import loading
from plaudit.rewards import sources_of
from plaudit.training.run import Run, files_of

FILE = "receipt.md"
_KIND = "plaudit receipt 1"
_KEYS = {"model", "data", "reward_files", "made_with", "stages", "settings", "figures"}
_BLOCK = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SIDES = {"sft": "SFT", "policy": "policy"}
_FIGURES = {  # in evaluation.json
    "score_mean": "score",
    "judge_positive": "judged positive",
    "kl_mean": "KL, nats",
    "distinct_2": "distinct pairs",
    "length_mean": "length, tokens",
}
# A training that rounds otherwise is another draw, like another seed. On the default task the spread of ten seeds is of
# the size of the intervals over prompts (docs/results.md), so two runs agree within twice what these explain.
_SPREAD = 2.0


@dataclass(frozen=True)
class Figure:
    """A figure of a receipt, and the same figure here."""

    name: str
    before: float
    here: float | None
    tolerance: float | None  # of the difference; None for a figure without an interval, which is only shown

    @property
    def agrees(self) -> bool | None:
        """Whether the two differ by no more than is promised; None where nothing is."""
        if self.here is None:
            return False
        return None if self.tolerance is None else abs(self.here - self.before) <= self.tolerance


def write_receipt(directory: Path) -> Path:
    """Write RUN/receipt.md of an evaluated run.

    Raises:
        RunError: the run has no evaluation, or a file of a stage has changed.
    """
    run = Run.existing(directory)
    content = content_of(run)
    path = directory / FILE
    write_atomic(path, _page(run, content))
    return path


def content_of(run: Run) -> dict[str, Any]:
    """Everything that a receipt says, as a JSON object."""
    if not run.complete("evaluation"):
        raise RunError(f"{run.path}: no evaluation here; run: plaudit eval {run.path}")
    evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    main = policy_of(evaluation)
    stages = [stage for stage in ("sft", "reward_model", main) if run.complete(stage)]
    if main not in stages:
        raise RunError(
            f"{run.path}: the evaluation is of {main or 'no policy'}, which is not there; run: plaudit eval {run.path}"
        )
    made = {stage: run.made_from(stage) or {} for stage in stages}
    prompts = evaluation["meta"]["prompts"]
    figures: dict[str, list[float | None]] = {}
    for side, name in _SIDES.items():
        for key, what in _FIGURES.items():
            if (value := number(evaluation[side], key)) is not None:
                ends = interval(evaluation[side], f"{key.removesuffix('_mean')}_ci95")
                ends = wilson(round(value * prompts), prompts) if key == "judge_positive" else ends
                figures[f"{what}, {name}"] = [value, *(ends or (None, None))]
    if "reward_model" in stages:
        summary = run.summary("reward_model")
        if (accuracy := number(summary, "accuracy")) is not None:
            figures["accuracy of the reward model"] = [accuracy, *(interval(summary, "accuracy_ci95") or (None, None))]
    own = run.config.reward_model.judgements  # data of the reward model's own
    return strict(
        {
            "kind": _KIND,
            "model": {"name": run.config.model, "fingerprint": made["sft"].get("model")},
            "data": {"name": run.config.data.name, "fingerprint": run.data.fingerprint},
            "judgements": {"name": own, "fingerprint": run.judged.fingerprint} if own else None,
            "reward": evaluation["meta"]["reward"],
            "reward_files": made[main].get("reward_files", {}),
            "made_with": made[main].get("made_with", {}),
            "stages": {stage: sha256(Path(run.model(stage)) / "model.safetensors") for stage in stages},
            "settings": flatten(json.loads(json.dumps(dataclasses.asdict(run.config)))),
            "prompts": prompts,
            "judge": (evaluation["meta"]["judge"] or {}).get("name", ""),
            "figures": figures,
        }
    )


def read_receipt(path: Path) -> dict[str, Any]:
    """The JSON object in a receipt.

    Raises:
        RunError: the file is no receipt.
    """
    try:
        found = _BLOCK.findall(path.read_text(encoding="utf-8"))
        content = json.loads(found[-1]) if found else {}
        if content.get("kind") == _KIND and content.keys() >= _KEYS:
            return content
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read as a receipt: {error}") from None
    raise RunError(f"{path}: no receipt; make one with plaudit receipt RUN")


def settings_of(receipt: dict[str, Any], data: str = "", judgements: str = "") -> dict[str, Any]:
    """The settings to run again with, by full name; `data` and `judgements` are where these lie here, if they moved.

    Raises:
        RunError: the receipt has a setting that this version of plaudit does not know.
    """
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in receipt["settings"].items()}
    if unknown := settings.keys() - known_settings().keys():
        version = receipt["made_with"].get("plaudit", "another version")
        raise RunError(f"the receipt has the setting '{min(unknown)}', which this plaudit does not; install {version}")
    moved = {"data.name": data, "reward_model.judgements": judgements}
    return settings | {name: place for name, place in moved.items() if place}


def check_inputs(receipt: dict[str, Any], run: Run) -> None:
    """Refuse to run again from other data or another model, with a RunError."""
    if run.data.fingerprint != receipt["data"]["fingerprint"]:
        raise RunError(f"{run.config.data.name}: not the data of the receipt; say where they lie with --data")
    judged, own = receipt.get("judgements"), run.config.reward_model.judgements
    if own and not judged:
        raise RunError(f"{own}: the receipt has no judgements of their own; leave out --judgements")
    if judged and run.judged.fingerprint != judged["fingerprint"]:
        raise RunError(f"{own}: not the judgements of the receipt; say where they lie with --judgements")
    if receipt["model"]["fingerprint"] not in (None, loading.fingerprint(run.config.model)):
        raise RunError(f"{run.config.model}: not the model of the receipt: its weights differ")
    here = files_of(sources_of(None, run.config.reward))
    for title, digest in receipt["reward_files"].items():
        if here.get(title) != digest:
            raise RunError(f"reward '{title}': not the one of the receipt, or not here")


def compared(receipt: dict[str, Any], run: Run) -> tuple[list[Figure], dict[str, bool]]:
    """The figures of a receipt beside those of a run, and for each stage whether the weights are equal to the last bit.

    Equal versions, threads and processors promise equal weights. Otherwise a figure agrees if the two differ by no more
    than twice what their 95% intervals explain.
    """
    here = content_of(run)
    figures = []
    for name, before in receipt["figures"].items():
        now = here["figures"].get(name)
        half = [(high - low) / 2 for _, low, high in (before, now or before) if low is not None and high is not None]
        tolerance = _SPREAD * math.hypot(*half) if len(half) == 2 else None
        figures.append(Figure(name, before[0], now and now[0], tolerance))
    return figures, {stage: here["stages"].get(stage) == digest for stage, digest in receipt["stages"].items()}


def other_versions(receipt: dict[str, Any], run: Run) -> list[str]:
    """What the last digits depend on and is not as in the receipt, such as "torch 2.13.0 here, 2.12.0 there"."""
    now = content_of(run)["made_with"]
    made = receipt["made_with"]
    return [f"{name} {now.get(name)} here, {value} there" for name, value in made.items() if now.get(name) != value]


def _page(run: Run, content: dict[str, Any]) -> str:
    made, settings = content["made_with"], content["settings"]
    changed = {n: v for n, v in settings.items() if v != _shown_default(n)}
    rows = [f"| {name} | {written(v, '{:.3f}')} {bracketed(None if lo is None else (lo, hi), '{:.3f}')} |"
            for name, (v, lo, hi) in content["figures"].items()]  # fmt: skip
    hashes = [
        ("model", content["model"]["name"], content["model"]["fingerprint"]),
        *((what, of["name"], of["fingerprint"]) for what in ("data", "judgements") if (of := content[what])),
        *((f"{heading(stage)}: model.safetensors", stage, digest) for stage, digest in content["stages"].items()),
        *(("reward", name, digest) for name, digest in content["reward_files"].items()),
    ]
    lines = [
        f"# Receipt of {run.path.resolve().name}",
        "",
        _statement(run, content),
        "",
        "| figure | value, 95% interval |",
        "|---|---|",
        *rows,
        "",
        "| what | name | SHA-256 |",
        "|---|---|---|",
        *(f"| {what} | {name} | `{digest}` |" for what, name, digest in hashes),
        "",
        "Made with " + ", ".join(f"{name} {value}" for name, value in made.items()) + ".",
        "",
        "Settings other than the defaults: "
        + (", ".join(f"`{name} = {json.dumps(value)}`" for name, value in changed.items()) or "none")
        + ".",
        "",
        f"Check it elsewhere: `plaudit receipt --check {FILE}` trains and evaluates again, and compares these figures.",
        "",
        "```json",
        json.dumps(content, indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)


def _shown_default(name: str) -> Any:
    default = known_settings()[name].default
    return list(default) if isinstance(default, tuple) else default


def _statement(run: Run, content: dict[str, Any]) -> str:
    """What a paper would say of the run."""
    return " ".join(_sentences(run, content))


def _sentences(run: Run, content: dict[str, Any]) -> Iterator[str]:
    figures, made, settings = content["figures"], content["made_with"], content["settings"]
    *_, policy = content["stages"]
    named = {"sft": "supervised fine-tuning", "reward_model": "a reward model"}
    yield (
        f"We trained {content['model']['name']} on {content['data']['name']} with plaudit {made.get('plaudit', '')} "
        f"(revision {made.get('revision', 'unknown')}, seed {settings['seed']}): "
        f"{', '.join(named.get(stage, heading(stage)) for stage in content['stages'])}."
    )

    def figure(name: str) -> str:
        value, low, high = figures[name]
        return f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")

    yield (
        f"On {content['prompts']} held-out prompts, the mean score by the {content['reward']} went from "
        f"{figure('score, SFT')} with the SFT model to {figure('score, policy')} with the policy ({heading(policy)}), "
        f"at a KL of {figure('KL, nats, policy')} nats a response (95% intervals over prompts)."
    )
    if "judged positive, policy" in figures:
        yield (
            f"A judge that training did not use called {figure('judged positive, SFT')} and "
            f"{figure('judged positive, policy')} of the responses positive, as shares."
        )
