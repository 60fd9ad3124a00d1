"""`report.html`: a run directory as one page that opens anywhere, without a network and without scripts.

`report.html.jinja` holds the markup and the text of the page, `figures.py` draws, and this file prepares the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from plaudit.config import SECTIONS, Config, default_settings
from plaudit.errors import RunError
from plaudit.evaluation.report import figures, words
from plaudit.evaluation.report.files import RunFiles, read_run
from plaudit.evaluation.report.words import Measure, bracketed, interval, number, written
from plaudit.files import write_atomic

LONGEST_TEXT = 1500  # characters of a text on the page

# Control characters and lone surrogates: a model can write them, but a page cannot hold them.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run directory, from the files in it alone.

    Args:
        directory: of a run. It may be unfinished: everything but `config.toml` may be missing.

    Returns:
        The path of the page. The same files give the same page, byte for byte.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
        RunError: the page cannot be written.
    """
    page = _page(read_run(directory))
    path = directory / "report.html"
    try:
        write_atomic(path, page)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _page(run: RunFiles) -> str:
    environment = Environment(
        autoescape=True, finalize=_printable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(__name__)
    template = environment.from_string((source / "report.html.jinja").read_text("utf-8"))
    css = Markup((source / "report.css").read_text("utf-8"))
    return template.render(_content(run), css=css).strip() + "\n"


def _printable(value: Any) -> Any:
    """The value of an expression in the template as text that a page can hold; escaping follows."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    return _UNPRINTABLE.sub("\ufffd", text[:LONGEST_TEXT] + " …" if len(text) > LONGEST_TEXT else text)


def _content(run: RunFiles) -> dict[str, Any]:
    """Data for the template, and functions that read a number from a table and format it."""
    bounds = words.score_range(run.meta)
    scale = bounds or _range_of_scores(run)
    sft, policy = (run.table("evaluation.json", entry) for entry in ("sft", "policy"))

    def marks(measure: Measure) -> dict[str, float]:
        """Where SFT and the policy lie on the scale of a measure, in percent of it."""
        pair = {"before": number(sft, measure.key), "after": number(policy, measure.key)}
        values = {name: value for name, value in pair.items() if value is not None}
        top = measure.high or 1.15 * max([*values.values(), 1e-9])
        low, high = scale if measure.key == "score_mean" else (measure.low, top)
        return {name: _place(value, low, high) for name, value in values.items()}

    return {
        "run": run,
        "sft": sft,
        "policy": policy,
        "measures": [m for m in words.measures(run.meta) if m.key in sft or m.key in policy],
        "marks": marks,
        "bounds": bounds,
        "scale": scale,
        "place": lambda score: _place(score or 0.0, *scale),
        "held_out": _held_out(run, bounds),
        "settings": _settings(run.settings),
        "leaves": _leaves,
        "draw": figures,
        "words": words,
        "number": number,
        "value": lambda table, key, form="{:.2f}": written(number(table, key), form),
        "ends": lambda table, key, form="{:.2f}": bracketed(interval(table, key), form),
    }


def _place(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high`, in percent."""
    return 100 * min(max((value - low) / (high - low), 0), 1)


def _range_of_scores(run: RunFiles) -> tuple[float, float]:
    """The lowest and the highest score in the run: the scale of a reward without bounds."""
    rows = [*run.lines("responses.jsonl"), *run.lines("samples.jsonl")]
    found = [number(row, f"{side}_score") for row in rows for side in ("sft", "policy")]
    found += [number(run.table("evaluation.json", side), "score_mean") for side in ("sft", "policy")]
    scores = [score for score in found if score is not None] or [0.0]
    low, high = min(scores), max(scores)
    return (low, high) if low < high else (low - max(abs(low), 1), high + max(abs(high), 1))


def _held_out(run: RunFiles, bounds: tuple[float, float] | None) -> dict[str, list[dict[str, Any]]]:
    """The scored responses to held-out prompts, and those that a reader should see."""
    keys = ("sft_score", "policy_score")
    rows = [r for r in run.lines("responses.jsonl") if None not in (number(r, key) for key in keys)]
    rise = [(row["policy_score"] - row["sft_score"], i) for i, row in enumerate(rows)]
    doubt = []
    if bounds:  # both are shares from 0 to 1 then
        judged = ((i, number(row, "policy_judge")) for i, row in enumerate(rows))
        doubt = [(_place(rows[i]["policy_score"], *bounds) / 100 - p, i) for i, p in judged if p is not None]

    def highest(values: list[tuple[float, int]], above: float) -> list[dict[str, Any]]:
        return [rows[i] for value, i in sorted(values, key=lambda pair: -pair[0])[:5] if value > above]

    return {
        "rows": rows,
        "spread": rows[:: max(1, len(rows) // 10)][:10],
        "rose": highest(rise, 0),
        "fell": highest([(-value, i) for value, i in rise], 0),
        "doubtful": highest(doubt, 0.2),
    }


def _settings(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value with unit, and meaning of every setting."""
    about: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(Config)}
    about |= {f"{s}.{f.name}": f.metadata for s in SECTIONS for f in fields(getattr(Config(), s))}
    defaults = default_settings()
    rows = []
    for name, value in settings.items():
        known = about.get(name, {})
        changed = f" (default: {defaults[name]})" if value != defaults.get(name, value) else ""
        rows.append((name, f"{value} {known.get('unit', '')}".rstrip(), known.get("help", "") + changed))
    return rows


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The leaves of nested tables by full name, numbers to four digits."""
    out = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += _leaves(value, f"{prefix}{key}.")
        else:
            leaves = value if isinstance(value, list) else [value]
            out.append((prefix + key, ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in leaves)))
    return out
