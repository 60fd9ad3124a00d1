"""Settings: defaults, presets, TOML files and validation.

Each algorithm owns its settings: the frozen dataclass `Config` in plaudit/algorithms/NAME.py, whose fields are made
with `setting`. This module combines them: `build({"seed": 2, "ppo.kl_coef": 0.1})` has `.seed` and `.ppo.kl_coef`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import math
import sys
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import tomli_w

from plaudit.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Every algorithm: its module in plaudit.algorithms, its TOML table, its command, and one line for `plaudit --help`.
ALGORITHMS = {
    "sft": "Supervised fine-tuning on the training texts.",
    "reward_model": "Train the reward model; needs plaudit sft.",
    "ppo": "Optimise the policy; needs plaudit reward-model.",
    "reinforce": "REINFORCE, without a critic; needs plaudit reward-model.",
}
SECTIONS = (*ALGORITHMS, "evaluation")
PRESETS = Path(__file__).parent / "presets"

# Help texts of settings that several algorithms have.
LORA_RANK = (
    "rank of the LoRA adapters, often 8 or 16: train these instead of the linear layers; needs a larger lr; 0: off"
)
LORA_ALPHA = "LoRA scales its adapters by lora_alpha / lora_rank"
MICROBATCH_SIZE = (
    "sequences in one forward and backward pass; gradients are accumulated over the batch, the result is the same; "
    "lower it when memory runs out; 0: the whole batch"
)


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its description, for `--help` and validation.

    Args:
        default: an int, a float or a str; values must have this type.
        help: what the setting does and when to change it.
        unit: of the value.
        low, high: the smallest and the largest value allowed.
        choices: the only values allowed.
    """
    return field(default=default, metadata={"help": help, "unit": unit, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class General:
    """Model, data, hardware and prompts."""

    model: str = setting("movie-gpt2", "language model to start from: movie-gpt2, smollm2, a folder or a hub id")
    data: str = setting("movie-reviews", "training data: a built-in name, a file, a folder or a hub id")
    seed: int = setting(1, "random seed; change it to see how much results vary", low=0)
    device: str = setting(
        "auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda", "mps")
    )
    dtype: str = setting(
        "auto",
        "number format of the forward pass; auto is bfloat16 where the hardware multiplies it (a CUDA GPU since "
        "Ampere, a CPU with AMX or AVX512-BF16), otherwise float32",
        choices=("auto", "float32", "bfloat16"),
    )
    engine: str = setting(
        "auto",
        "plain runs everything with transformers and torch only; fast uses packed batches, cached activations and "
        "rounded products for the model families that plaudit knows; auto is fast where it can be",
        choices=("auto", "plain", "fast"),
    )
    prompt_min: int = setting(2, "shortest prompt to cut from the beginning of a text", unit="words", low=1)
    prompt_max: int = setting(8, "longest prompt to cut from the beginning of a text", unit="words", low=1)


@dataclass(frozen=True)
class RolloutConfig:
    """Settings of every algorithm that samples responses and scores them."""

    iterations: int = setting(
        36, "rounds of sampling responses and updating the policy; more train longer", unit="iterations", low=1
    )
    batch_size: int = setting(
        128, "responses sampled in one iteration; raise it if the score is noisy", unit="responses", low=2
    )
    minibatch_size: int = setting(32, "responses in one optimizer step", unit="responses", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="responses", low=0)
    epochs: int = setting(2, "passes over the responses of one iteration", low=1)
    max_new_tokens: int = setting(
        48, "longest response, end token included; raise it if many are cut off", unit="tokens", low=1
    )
    temperature: float = setting(
        0.78,
        "divides the logits, in sampling and in log-probabilities; lower it for more likely, less varied responses",
        low=0.05,
        high=10,
    )
    train_layers: int = setting(
        2,
        "train only this many layers of the policy, counted from the output; the others keep the SFT model's weights: "
        "faster, with less memory; 0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1)
    lr: float = setting(
        3e-4, "peak learning rate of Adam, from which it falls linearly to 0; lower it if KL jumps", low=0, high=1
    )
    warmup: float = setting(
        0.1, "fraction of the iterations in which the learning rate rises linearly to its peak", low=0, high=1
    )
    kl_coef: float = setting(
        0.15,
        "penalty for each nat of KL from the SFT model (beta); raise it to stay closer to the SFT model",
        unit="score/nat",
        low=0,
    )
    kl_control: str = setting(
        "fixed",
        "fixed keeps kl_coef; adaptive changes it so that KL approaches kl_target",
        choices=("fixed", "adaptive"),
    )
    kl_target: float = setting(6.0, "KL that kl_control = adaptive aims at", unit="nats/response", low=1e-6)
    kl_horizon: int = setting(
        10_000, "time constant of kl_control = adaptive; raise it for slower changes", unit="responses", low=1
    )
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    missing_eos_score: float = setting(
        -1.0,
        "normalised score of a response cut off at max_new_tokens; lower it if too few responses end",
        unit="standard deviations",
    )
    save_every: int = setting(10, "iterations between checkpoints", unit="iterations", low=1)


def _module(section: str) -> str:
    return "plaudit.evaluation.evaluate" if section == "evaluation" else f"plaudit.algorithms.{section}"


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

    Importing the section's module takes seconds, because it imports torch; `--help` and a wrong flag must not. So only
    the class is taken from the module's source, unless it uses a name that this module does not have.
    """
    if not section:
        return General
    path = Path(__file__).parent.parent.joinpath(*_module(section).split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    names = dict(globals())
    try:
        exec(compile(tree, str(path), "exec"), names)
    except NameError:
        return type(_make(section))
    return names["Config"]


@functools.cache
def known_settings() -> dict[str, dataclasses.Field[Any]]:
    """The field of every setting by full name, such as `seed` or `ppo.kl_coef`."""
    return {f"{section}.{f.name}".lstrip("."): f for section in ("", *SECTIONS) for f in fields(section_class(section))}


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
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    tree.pop("versions", None)
    try:
        return _check_each(flatten(tree))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


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
    """' (did you mean ...?)' with the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close and "." not in name:  # 'kl_coeff' should find 'ppo.kl_coef'
        last = {full.rpartition(".")[2]: full for full in names}
        close = [last[n] for n in difflib.get_close_matches(name, list(last), n=1, cutoff=0.5)]
    return f" (did you mean '{close[0]}'?)" if close else ""


def resolve(*layers: dict[str, Any]) -> dict[str, Any]:
    """Every setting by full name, from layers of settings; a later layer overrides an earlier one.

    Below all layers are the defaults, and above these the preset of a built-in model's own name.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or outside its range, or a contradiction.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        given |= _check_each(layer)
    model = given.get("model")
    own = preset(model) if model in preset_names() else {}
    settings = default_settings() | (own if own.get("model") == model else {}) | given
    for small, large in (("prompt_min", "prompt_max"), *((f"{s}.minibatch_size", f"{s}.batch_size") for s in SECTIONS)):
        if small in settings and settings[small] > settings[large]:
            raise ConfigError(f"{small} = {settings[small]} is above {large} = {settings[large]}")
    return settings


def build(*layers: dict[str, Any]) -> Config:
    """A Config from layers of settings by full name, checked and combined as in `resolve`."""
    parts: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for full, value in resolve(*layers).items():
        section, _, name = full.rpartition(".")
        parts[section][name] = value
    general = parts.pop("")
    return Config(**general, **{s: _make(s, **part) for s, part in parts.items()})


def _check_each(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with every value converted to its type, or a ConfigError."""
    known = known_settings()
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown setting '{name}'{nearest(name, list(known))}")
    return {name: _check(name, value, known[name]) for name, value in settings.items()}


def _check(name: str, value: Any, described: dataclasses.Field[Any]) -> Any:
    kind: Any = type(described.default)
    about = described.metadata
    low, high, choices = about["low"], about["high"], about["choices"]
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        value = _whole(value) if kind is int else kind(value)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except (TypeError, ValueError, ArithmeticError):
        word = {int: "a whole number", float: "a number", str: "text"}[kind]
        raise ConfigError(f"{name} = {value!r}: must be {' '.join([word, allowed(about)]).strip()}") from None
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(f"{name} = {value!r}: must be {allowed(about)}")
    if choices and value not in choices:
        raise ConfigError(f"{name} = {value!r}{nearest(value, list(choices))}: must be one of {', '.join(choices)}")
    return value


def _whole(value: Any) -> int:
    number = Decimal(str(value))  # exact where float would round, as for a large seed; reads 1e3 too
    if number != int(number):
        raise ValueError
    return int(number)


def allowed(about: Any) -> str:
    """The range of a setting in words; empty if it has none."""
    low, high = about["low"], about["high"]
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""


def to_toml(config: Config, versions: dict[str, str]) -> str:
    """`config` as TOML that `read_toml` reads back, with a table of the versions that made the run."""
    return tomli_w.dumps(dataclasses.asdict(config) | {"versions": versions})
