"""`report.html`: a run directory as one page that opens anywhere, without a network and without scripts.

`report.html.jinja` holds the markup and the text of the page, `figures.py` draws, and this file prepares the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from plaudit.config import POLICIES, known_settings, read_toml, tomllib
from plaudit.errors import RunError
from plaudit.evaluation.report import methods, words
from plaudit.evaluation.report.words import CUSTOM_REWARD, REWARD_MODEL, Measure, bracketed, interval, number, written
from plaudit.files import write_atomic
from plaudit.training.ending import endings
from plaudit.training.manifest import OTHER_REWARDS
from plaudit.training.metrics import PART, read_jsonl

LONGEST_TEXT = 1500  # characters of a text on the page
Line = dict[str, Any]  # of a jsonl file
LOOP = "loop.json"  # of plaudit loop
_OF_STAGE = ("metrics.jsonl", "timing.jsonl", "summary.json")
_OF_RUN = (
    *("evaluation.json", "samples.jsonl", "responses.jsonl", "frontier.json", "methods.json"),
    *(OTHER_REWARDS, LOOP),
)

# Control characters and lone surrogates: a model can write them, but a page cannot hold them.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run directory, from the files in it alone; all but `config.toml` may be missing.

    The same files give the same page, byte for byte.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
        RunError: the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = (
        environment.get_template("report.html.jinja").render(_content(RunFiles(directory), _faults(directory))).strip()
        + "\n"
    )
    path = directory / "report.html"
    try:
        write_atomic(path, page)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    return path


class RunFiles:
    """The contents of a run directory. Missing and malformed files are listed, and read as empty.

    Raises:
        ConfigError: `config.toml` is missing or is not TOML.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "config.toml"
        self.name = directory.resolve().name
        self.settings = read_toml(path)  # values by full name, such as `ppo.kl_coef`
        self.versions = _table(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("versions"))
        self.contents: dict[str, Any] = {}  # by path within the directory
        self.broken = []  # paths of the files that cannot be read
        # The policies of the run; PPO's is missing where there is none yet.
        self.policies = tuple(name for name in POLICIES if (directory / name).exists()) or POLICIES[:1]
        self.folders = ("sft", "reward_model", *self.policies)
        files = (*(f"{folder}/{name}" for folder in self.folders for name in _OF_STAGE), *_OF_RUN)
        existing = [name for name in files if (directory / name).exists()]
        for name in existing:
            try:
                self.contents[name] = _read(directory / name)
            except (OSError, ValueError, RunError):
                self.broken.append(name)
        self.meta = self.table("evaluation.json", "meta")
        # The policy that the run is about: that of the evaluation, or the first.
        self.policy = words.policy_of(self.contents.get("evaluation.json", {})) or self.policies[0]
        has_model, has_policy = ((directory / folder).exists() for folder in ("reward_model", self.policy))
        # A policy without a reward model is trained for a custom reward; its name will be in evaluation.json.
        default = CUSTOM_REWARD if has_policy and not has_model else REWARD_MODEL
        self.reward = str(self.meta.get("reward") or default)
        default_reward = self.reward == REWARD_MODEL
        ends = interval({"score_range": (-1, 1) if default_reward else None} | self.meta, "score_range")
        self.bounds = ends if ends and ends[0] < ends[1] else None  # of a score; None for a reward without bounds
        optional: tuple[str, ...] = ("frontier.json", "methods.json", OTHER_REWARDS, LOOP)
        if not (has_model or default_reward):
            optional = (*optional, "reward_model/")
        if LOOP in existing and not has_policy:  # the policies are in the folders of the rounds
            optional = tuple(name for name in files if not name.startswith("sft/"))
        if "methods.json" in existing and not has_policy:  # the policies are in the folders of the methods
            optional = (*optional, f"{self.policy}/", "evaluation.json", "samples.jsonl", "responses.jsonl")
        self.missing = [name for name in files if name not in existing and not name.startswith(optional)]

    def lines(self, path: str) -> list[Line]:
        """The objects of a jsonl file."""
        return self.contents.get(path, [])

    def table(self, path: str, *keys: str) -> dict[str, Any]:
        """The object of a json file, or an object in it."""
        found = self.contents.get(path, {})
        for key in keys:
            found = _table(found.get(key))
        return found

    def tables(self, path: str, key: str) -> list[dict[str, Any]]:
        """The objects of a list in a json file."""
        found = self.table(path).get(key)
        return [v for v in found if isinstance(v, dict)] if isinstance(found, list) else []

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by stage: from evaluation.json, or from the steps so far if it does not exist yet."""
        times = self.table("evaluation.json", "meta", "wall_seconds")
        if not times:
            times = {f: sum(number(r, "seconds") or 0 for r in self.lines(f"{f}/timing.jsonl")) for f in self.folders}
        return {stage: value for stage in times if (value := number(times, stage))}

    def speed(self, stage: str) -> float | None:
        """Tokens per second of the median step."""
        speeds = [number(line, "tokens_per_second") for line in self.lines(f"{stage}/timing.jsonl")]
        known = [speed for speed in speeds if speed is not None]
        return median(known) if known else None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Any:
    content = read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))
    if not all(isinstance(c, dict) for c in (content if path.suffix == ".jsonl" else [content])):
        raise ValueError("not a JSON object")
    return content


def _printable(value: Any) -> Any:
    """The value of an expression in the template as text that a page can hold; escaping follows."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    return _UNPRINTABLE.sub("\ufffd", text[:LONGEST_TEXT] + " …" if len(text) > LONGEST_TEXT else text)


def _faults(directory: Path) -> list[str]:
    """Stages that failed, and what the figures show to be wrong, a sentence each."""
    from plaudit.evaluation.diagnosis import diagnose  # which uses the words of this package

    failed = {stage: ending for stage, ending in endings(directory).items() if ending.how == "failed"}
    ends = [f"{words.title(stage)} failed after step {end.step}: {end.reason}." for stage, end in failed.items()]
    return ends + [finding.sentence for finding in diagnose(directory)]


def _content(run: RunFiles, faults: list[str]) -> dict[str, Any]:
    """Data for the template, and functions that read a number from a table and format it."""
    from plaudit.evaluation.report import figures, rounds  # matplotlib, which those who need `words` alone do not load

    scale = run.bounds or _range_of_scores(run)
    sft, policy = (run.table("evaluation.json", entry) for entry in ("sft", "policy"))

    def marks(measure: Measure) -> dict[str, float]:
        """Where SFT and the policy lie on the scale of a measure, in percent of it."""
        pair = {"before": number(sft, measure.key), "after": number(policy, measure.key)}
        values = {name: value for name, value in pair.items() if value is not None}
        ends = 0.0, measure.high or 1.15 * max([*values.values(), 1e-9])
        return {name: _place(v, *(scale if measure.key == "score_mean" else ends)) for name, v in values.items()}

    return {
        "run": run,
        "notices": [*dict.fromkeys([*faults, *words.warnings(run.table("evaluation.json"))])],
        "sft": sft,
        "policy": policy,
        "measures": [m for m in words.measures(run.reward, run.bounds) if m.key in sft or m.key in policy],
        "marks": marks,
        "scale": scale,
        "place": lambda score: _place(score or 0.0, *scale),
        "parts": {policy: _parts(run, policy) for policy in (*run.policies, run.policy)},
        "held_out": _held_out(run),
        "others": [words.other_reward_cells(*item) for item in run.table(OTHER_REWARDS).items()],
        "settings": _settings(run.settings),
        "leaves": _leaves,
        "draw": figures,
        "rounds": rounds,
        "words": words,
        "methods": methods,
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


def _held_out(run: RunFiles) -> dict[str, list[Line]]:
    """The scored responses to held-out prompts, and those that a reader should see."""
    rows = [r for r in run.lines("responses.jsonl") if None not in (number(r, "sft_score"), number(r, "policy_score"))]
    judged = [r for r in rows if run.bounds and number(r, "policy_judge") is not None]
    low, high = run.bounds or (0.0, 1.0)

    def rise(row: Line) -> float:
        return row["policy_score"] - row["sft_score"]

    def doubt(row: Line) -> float:  # score minus judge, both as shares from 0 to 1
        return _place(row["policy_score"], low, high) / 100 - row["policy_judge"]

    def highest(rows: list[Line], value: Callable[[Line], float], above: float = 0.0) -> list[Line]:
        return [row for row in sorted(rows, key=value, reverse=True)[:5] if value(row) > above]

    return {
        "rows": rows,
        "spread": rows[:: max(1, len(rows) // 10)][:10],
        "rose": highest(rows, rise),
        "fell": highest(rows, lambda row: -rise(row)),
        "doubtful": highest(judged, doubt, 0.2),
    }


def _parts(run: RunFiles, policy: str) -> dict[str, str]:
    """Each part of a policy's reward with several, as its log names it, with its weight where that is known."""
    first = next(iter(run.lines(f"{policy}/metrics.jsonl")), {})
    names = [key.removeprefix(PART) for key in first if key.startswith(PART)]
    weights = run.table(f"{policy}/summary.json", "parts")
    known = {name: weight for name in names if (weight := number(weights, name)) is not None}
    labels = {name: f"{name} (weight {written(known[name], '{:g}')})" if name in known else name for name in names}
    return labels if len(labels) > 1 else {}


def _settings(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value with unit, and meaning of every setting."""
    rows = []
    for name, value in settings.items():
        known = known_settings()[name]
        changed = f" (default: {_text(known.default)})" if value != known.default else ""
        rows.append((name, f"{_text(value)} {known.metadata['unit']}".rstrip(), known.metadata["help"] + changed))
    return rows


def _text(value: Any) -> str:
    """The value of a setting; a list as its elements."""
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


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
