"""The end of the page: every figure, setting, version, time and count, and what the terms mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from plaudit.config import SECTIONS, Config, default_settings
from plaudit.evaluation.report.files import RunFiles, as_table
from plaudit.evaluation.report.fragments import fold, section, table
from plaudit.evaluation.report.words import GLOSSARY, MEASURES, bracketed, duration, interval, number, written

_NAMES = {
    "sft": "Supervised fine-tuning",
    "reward_model": "Reward model",
    "ppo": "PPO",
    "evaluation": "Evaluation",
}


def details(run: RunFiles) -> str:
    """The folded tables."""
    terms = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>\n" for term, meaning in GLOSSARY.items())
    folds = (
        fold("What the terms mean", f"<dl>\n{terms}</dl>"),
        fold("Evaluation: all figures", _evaluation(run.table("evaluation.json"))),
        fold("Settings", _settings(run.settings)),
        fold("Time", _time(run)),
        fold("Data used and left out", table(("stage", "what", "count"), _counts(run))),
        fold("Versions", table(("package", "version"), run.versions.items())),
    )
    return section("Details", "", "".join(folds))


def _evaluation(evaluation: dict[str, Any]) -> str:
    sft, policy, meta = (as_table(evaluation.get(key)) for key in ("sft", "policy", "meta"))
    rows = [
        (m.name, *(f"{written(number(side, m.key), m.form)} {_ends(side, m.key)}" for side in (sft, policy)))
        for m in MEASURES
        if m.key in sft or m.key in policy
    ]
    difference = interval(meta, "score_difference_ci95")
    if difference:
        rows.append(("Score, policy minus SFT on the same prompt", "", f"95 % interval {bracketed(difference)}"))
    told = ("wall_seconds", "score_difference_ci95", "warnings")
    rest = [(k, v) for k, v in _leaves(meta) if not k.startswith(told)]
    return table(("figure", "SFT", "policy"), rows) + table(("about the evaluation", "value"), rest)


def _ends(side: dict[str, Any], key: str) -> str:
    return bracketed(interval(side, "score_ci95")) if key == "score_mean" else ""


def _settings(settings: dict[str, Any]) -> str:
    about = {f.name: f.metadata for f in fields(Config)}
    about |= {f"{s}.{f.name}": f.metadata for s in SECTIONS for f in fields(getattr(Config(), s))}
    defaults = default_settings()
    rows = []
    for name, value in settings.items():
        known: Mapping[str, Any] = about.get(name, {})
        unit = f" {known['unit']}" if known.get("unit") else ""
        changed = f" (default: {defaults[name]})" if name in defaults and value != defaults[name] else ""
        rows.append((name, f"{value}{unit}", known.get("help", "") + changed))
    return table(("setting", "value", "meaning"), rows, "settings")


def _time(run: RunFiles) -> str:
    rows = []
    for stage, seconds in run.seconds().items():
        lines = run.lines(f"{stage}/timing.jsonl")
        speeds = sorted(v for line in lines if (v := number(line, "tokens_per_second")) is not None)
        middle = f"{speeds[len(speeds) // 2]:,.0f}" if speeds else ""
        rows.append((_NAMES.get(stage, stage), duration(seconds), middle))
    return table(("stage", "wall-clock time", "tokens per second, median step"), rows)


def _counts(run: RunFiles) -> list[tuple[str, str, Any]]:
    rows: list[tuple[str, str, Any]] = []
    for folder in ("sft", "reward_model", "ppo"):
        summary, name = run.table(f"{folder}/summary.json"), _NAMES[folder]
        rows += [(name, key.replace("_", " "), value) for key, value in summary.items() if type(value) is int]
        rows += [(name, f"left out: {why}", count) for why, count in as_table(summary.get("dropped")).items()]
    return rows


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested tables by full name; rounded as far as people read."""
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += _leaves(value, f"{prefix}{key}.")
        else:
            out.append((prefix + key, _rounded(value)))
    return out


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(str(_rounded(v)) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else value
