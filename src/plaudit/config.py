"""Settings: defaults, presets, TOML files and validation.

Each algorithm owns its settings: the frozen dataclass `Config` in plaudit/algorithms/NAME.py, whose fields are made
with `setting`. This module combines them: `build({"seed": 2, "ppo.kl_coef": 0.1})` has `.seed` and `.ppo.kl_coef`.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import tomli_w

from plaudit import settings as shared
from plaudit.errors import ConfigError, RunError
from plaudit.settings import General

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Every algorithm: its module in plaudit.algorithms, its TOML table, its command, and one line for `plaudit --help`.
ALGORITHMS = {
    "sft": "Supervised fine-tuning on the training texts.",
    "reward_model": "Train the reward model; needs plaudit sft.",
    "ppo": "Optimise the policy for the reward model, or for --reward.",
    "reinforce": "REINFORCE: the same without a critic.",
    "rloo": "RLOO: REINFORCE with several responses to a prompt.",
    "grpo": "GRPO: responses to a prompt compared with one another.",
    "dpo": "DPO: learn from pairs of responses.",
    "kto": "KTO: learn from responses that are marked as good or bad.",
    "best_of_n": "Best-of-n: imitate the best of n responses of the SFT model.",
}
POLICIES = tuple(name for name in ALGORITHMS if name not in ("sft", "reward_model"))  # algorithms that train a policy
SECTIONS = ("data", *ALGORITHMS, "evaluation")
_MOST_NAMES = 6  # of a suggestion
PRESETS = Path(__file__).parent / "presets"


def in_words(stage: str) -> str:
    """A stage's name as running text has it."""
    return "reward model" if stage == "reward_model" else stage.replace("_", "-")


def heading(stage: str) -> str:
    """A stage's name as a heading has it: Reward model, Best-of-n, PPO."""
    words = in_words(stage)
    return words.upper() if stage in ALGORITHMS and words == stage else words.capitalize()


def _module(section: str) -> str:
    others = {"data": "plaudit.data.options", "evaluation": "plaudit.evaluation.evaluate"}
    return others.get(section, f"plaudit.algorithms.{section}")


def _make(section: str, **settings: Any) -> Any:
    """An instance of a section's settings class, from its module."""
    return importlib.import_module(_module(section)).Config(**settings)


# One attribute a section, such as `config.ppo`; a section's module, and torch, is imported with the first Config.
Config: Any = dataclasses.make_dataclass(
    "Config",
    [(name, Any, field(default_factory=functools.partial(_make, name))) for name in SECTIONS],
    bases=(General,),
    frozen=True,
    namespace={"__module__": __name__, "__doc__": "All settings of a run."},
)


@functools.cache
def section_class(section: str) -> type:
    """The settings class of a section ("" for the general settings), for its names, defaults and help texts.

    `--help` must not wait for the section's module, which imports torch. So only the class is taken from the module's
    source, unless it uses a name that plaudit.settings does not have.
    """
    if not section:
        return General
    path = Path(__file__).parent.parent.joinpath(*_module(section).split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    names = dict(vars(shared))
    try:
        exec(compile(tree, str(path), "exec"), names)
    except NameError:
        return type(_make(section))
    return names["Config"]


@functools.cache
def known_settings() -> dict[str, dataclasses.Field[Any]]:
    """The field of every setting by full name, such as `seed` or `ppo.kl_coef`."""
    return {f"{section}.{f.name}".lstrip("."): f for section in ("", *SECTIONS) for f in fields(section_class(section))}


@functools.cache
def short_names() -> dict[str, str]:
    """The full name of every setting that has a short one: `data` is `data.name`."""
    return {f.metadata["short"]: name for name, f in known_settings().items() if f.metadata["short"]}


def default_settings() -> dict[str, Any]:
    """Every setting by full name, with its default."""
    return {name: f.default for name, f in known_settings().items()}


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """{"ppo": {"lr": 1}} -> {"ppo.lr": 1}, one level deep."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file by full name. The table `[versions]` of a run's config.toml is ignored."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
        tree.pop("versions", None)
        return _check_each(flatten(tree))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such settings file") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def read_saved(path: Path) -> dict[str, Any]:
    """The settings of a run's config.toml, which must be as plaudit wrote it.

    Raises:
        RunError: it is empty, cut off or changed.
    """
    settings = read_toml(path)
    tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    if tree.get("versions", {}).get("settings") != _hash({k: v for k, v in tree.items() if k != "versions"}):
        raise RunError(f"{path}: damaged, or changed by hand; give new settings as flags, or put the file back")
    return settings


def preset_names() -> list[str]:
    """The built-in presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset(name: str) -> dict[str, Any]:
    """The settings of a built-in preset."""
    names = preset_names()
    if name not in names:
        raise ConfigError(f"no preset '{name}'{nearest(name, names)}; the presets are: {', '.join(names)}")
    return read_toml(PRESETS / f"{name}.toml")


def nearest(name: str, names: list[str]) -> str:
    """' (did you mean ...?)' with those of `names` that begin with or contain `name`, or the closest; or nothing."""
    # The words of 'ppo.kl' are in 'ppo.kl_coef', and those of 'ppo.clip' in 'ppo.value_clip'.
    section, dot, last = name.lstrip("-").rpartition(".")
    within = [n for n in names if len(last) > 1 and n.lstrip("-").startswith(section + dot) and last in n]
    within.sort(key=lambda n: not n.rpartition(".")[2].lstrip("-").startswith(last))
    close = within[:_MOST_NAMES] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close and "." not in name:  # 'kl_coeff' should find 'ppo.kl_coef'
        full = {each.rpartition(".")[2]: each for each in names}
        close = [full[n] for n in difflib.get_close_matches(name, list(full), n=1, cutoff=0.5)]
    *some, end = [f"'{n}'" for n in close] or [""]
    return f" (did you mean {' or '.join(filter(None, [', '.join(some), end]))}?)" if close else ""


def given(*layers: dict[str, Any]) -> dict[str, Any]:
    """What is given, by full name: the preset of a built-in model's own name < each layer in turn.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type or outside its range.
    """
    found = {name: value for layer in layers for name, value in _check_each(layer).items()}
    model = found.get("model")
    own = preset(model) if model in preset_names() else {}
    return (own if own.get("model") == model else {}) | found


def fitted(known: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings that follow from the model's size where they are not among `known`, and a line that says so.

    Raises:
        ModelError: the model cannot be opened.
    """
    defaults = importlib.import_module("plaudit.models.defaults")
    return defaults.fit(known.get("model", General.model), known)


def resolve(*layers: dict[str, Any]) -> dict[str, Any]:
    """Every setting by full name: default < what is given. Here the defaults are those of the default model.

    Raises:
        ConfigError: as for `given`, or a contradiction.
    """
    settings = default_settings() | given(*layers)
    pairs = (("minibatch_size", "batch_size"), ("min_new_tokens", "max_new_tokens"))
    within = [(f"{s}.{small}", f"{s}.{large}") for s in SECTIONS for small, large in pairs]
    for small, large in (("prompt_min", "prompt_max"), *within):
        if small in settings and settings[small] > settings[large]:
            raise ConfigError(f"{small} = {settings[small]} is above {large} = {settings[large]}")
    for section in SECTIONS:
        name = f"{section}.responses" if f"{section}.responses" in settings else f"{section}.batch_size"
        if settings.get(name, 1) % (group := settings.get(f"{section}.group_size", 1)):
            raise ConfigError(f"{name} = {settings[name]} is not a multiple of {section}.group_size = {group}")
    for name in (f"{s}.lower_bound" for s in SECTIONS):
        if settings.get(name) and settings["reward_model.members"] < 2:
            raise ConfigError(f"{name} = {settings[name]}: one reward model has no spread; raise reward_model.members")
    for name, loss in ((f"{s}.label_smoothing", f"{s}.loss") for s in SECTIONS):
        if settings.get(name) and (chosen := settings[loss]) != "sigmoid":
            raise ConfigError(f"{name} = {settings[name]}: {loss} = {chosen} has no smoothing; set {name} = 0")
    return settings


def without_effect(config: Config, sections: Iterable[str]) -> list[str]:
    """A sentence for each setting of these sections that was changed and changes nothing, because of another one."""
    found = []
    for section in sections:
        settings = getattr(config, section)
        for about in fields(settings):
            other, _, values = about.metadata["only_with"].partition("=")
            value, now = getattr(settings, about.name), getattr(settings, other, None)
            if other and value != about.default and not (now in values.split("|") if values else now):
                found.append(f"{section}.{about.name} = {value} changes nothing while {section}.{other} = {now}")
    return found


def build(*layers: dict[str, Any]) -> Config:
    """A Config from layers of settings by full name, checked and combined as in `resolve`.

    What depends on the model's size and is not given follows from it: see plaudit/models/defaults.py.
    """
    known = given(*layers)
    resolve(known)  # a wrong setting is refused before the model is opened
    settings = resolve(known | fitted(known)[0])

    def part(section: str) -> dict[str, Any]:
        return {f.name: settings[f"{section}.{f.name}".lstrip(".")] for f in fields(section_class(section))}

    return Config(**part(""), **{section: _make(section, **part(section)) for section in SECTIONS})


def _check_each(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with every value converted to its type, or a ConfigError."""
    known = known_settings()
    settings = {short_names().get(name, name): value for name, value in settings.items()}
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown setting '{name}'{nearest(name, list(known))}")
    return {name: _check(name, value, known[name]) for name, value in settings.items()}


def _check(name: str, value: Any, described: dataclasses.Field[Any]) -> Any:
    kind: Any = type(described.default)
    about = described.metadata
    low, high, choices = about["low"], about["high"], about["choices"]
    if kind is tuple:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{name} = {value!r}: must be a text, or a list of texts")
        if choices:
            texts = [word.strip() for text in texts for word in text.split(",")]
        for text in texts:
            _check_choice(name, text, choices)
        return tuple(dict.fromkeys(texts) if choices else texts)
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        exact = Decimal(str(value)) if kind is int else value  # where float would round, as for a large seed
        if kind is int and int(exact) != exact:
            raise ValueError
        value = kind(exact)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except (TypeError, ValueError, ArithmeticError):
        word = {int: "a whole number", float: "a number", str: "text"}[kind]
        raise ConfigError(f"{name} = {value!r}: must be {' '.join([word, allowed(about)]).strip()}") from None
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(f"{name} = {value!r}: must be {allowed(about)}")
    _check_choice(name, value, choices)
    return value


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if choices and value not in choices:
        raise ConfigError(f"{name} = {value!r}{nearest(value, list(choices))}: must be one of {', '.join(choices)}")


def allowed(about: Any) -> str:
    """The range of a setting in words; empty if it has none."""
    low, high = about["low"], about["high"]
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""


def to_toml(config: Config, versions: dict[str, str]) -> str:
    """`config` as TOML that `read_toml` reads back, with a table of the versions that made the run."""
    tree = dataclasses.asdict(config)
    return tomli_w.dumps(tree | {"versions": versions | {"settings": _hash(tree)}})


def _hash(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
