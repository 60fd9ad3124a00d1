"""Settings: one frozen dataclass per stage, each field with its help, unit, default and range.

A TOML file and the command line set the same fields; a flag beats the file, the file beats the default.

    model = "movie-gpt2"
    [ppo]
    kl_coef = 0.1
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from plaudit.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with what `--help` and validation need. `low` and `high` are inclusive."""
    about = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=about)


_LORA_RANK = (
    "learn this many directions beside each linear layer (LoRA, often 8 or 16) in place of the layers themselves; "
    "wants a larger lr; 0: off"
)
_LORA_ALPHA = "LoRA's directions are scaled by lora_alpha / lora_rank"


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning: imitate the sentences of the training split."""

    epochs: int = setting(2, "passes over the training texts", low=1)
    batch_size: int = setting(32, "texts in one optimizer step", unit="texts", low=1)
    train_layers: int = setting(
        0, "top blocks of the model that learn; the rest stays as it was given; 0: all learn", unit="blocks", low=0
    )
    lora_rank: int = setting(0, _LORA_RANK, low=0)
    lora_alpha: int = setting(16, _LORA_ALPHA, low=1)
    lr: float = setting(1e-3, "peak learning rate of AdamW", low=0, high=1)
    warmup: float = setting(0.05, "share of the steps in which the learning rate rises to its peak", low=0, high=1)
    weight_decay: float = setting(0.01, "decoupled weight decay", low=0, high=1)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=1e-6)
    max_tokens: int = setting(64, "longer texts are left out, and counted", unit="tokens", low=4)
    save_every: int = setting(100, "steps between checkpoints", unit="steps", low=1)


@dataclass(frozen=True)
class RewardModelConfig:
    """The reward model: learn to tell good texts from bad ones."""

    epochs: int = setting(2, "passes over the training data", low=1)
    batch_size: int = setting(32, "texts or comparisons in one optimizer step", low=1)
    train_layers: int = setting(
        0,
        "top blocks of the reward model that learn; the rest stays SFT's; 0: all learn",
        unit="blocks",
        low=0,
    )
    lora_rank: int = setting(0, _LORA_RANK, low=0)
    lora_alpha: int = setting(16, _LORA_ALPHA, low=1)
    lr: float = setting(5e-4, "peak learning rate of AdamW", low=0, high=1)
    warmup: float = setting(0.05, "share of the steps in which the learning rate rises to its peak", low=0, high=1)
    weight_decay: float = setting(0.01, "decoupled weight decay", low=0, high=1)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=1e-6)
    max_tokens: int = setting(64, "longer texts are left out, and counted", unit="tokens", low=4)
    save_every: int = setting(100, "steps between checkpoints", unit="steps", low=1)


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation: raise the score, held to the SFT model by a KL penalty."""

    iterations: int = setting(36, "rollout-and-update rounds", unit="iterations", low=1)
    batch_size: int = setting(128, "responses sampled in one iteration", unit="responses", low=2)
    minibatch_size: int = setting(32, "responses in one optimizer step", unit="responses", low=1)
    epochs: int = setting(2, "passes over the responses of an iteration", low=1)
    max_new_tokens: int = setting(48, "cap on a response, end token included", unit="tokens", low=1)
    temperature: float = setting(0.78, "divides the logits, in sampling and in scoring alike", low=0.05, high=10)
    train_layers: int = setting(
        2,
        "top blocks of the policy that learn; the rest keeps the SFT model's weights; 0: all learn",
        unit="blocks",
        low=0,
    )
    lora_rank: int = setting(0, _LORA_RANK, low=0)
    lora_alpha: int = setting(16, _LORA_ALPHA, low=1)
    lr: float = setting(3e-4, "peak learning rate of Adam; it falls linearly to 0", low=0, high=1)
    warmup: float = setting(0.1, "share of the iterations in which the learning rate rises to its peak", low=0, high=1)
    kl_coef: float = setting(0.15, "price of a nat of KL against the SFT model (beta)", unit="score/nat", low=0)
    kl_control: str = setting("fixed", "keep kl_coef, or steer it towards kl_target", choices=("fixed", "adaptive"))
    kl_target: float = setting(6.0, "KL that the adaptive controller steers to", unit="nats/response", low=1e-6)
    kl_horizon: int = setting(10_000, "how slowly the adaptive controller moves", unit="responses", low=1)
    gamma: float = setting(1.0, "discount of later rewards", low=0, high=1)
    lam: float = setting(0.95, "GAE's trade of bias (0) against variance (1)", low=0, high=1)
    clip_range: float = setting(0.2, "how far the ratio may move before its gradient is cut", low=0, high=1)
    value_clip: float = setting(0.2, "how far a value may move from its rollout value", low=0)
    value_coef: float = setting(0.1, "weight of the value loss", low=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", low=1e-6)
    kl_stop: float = setting(0.1, "an update ends when approximate KL passes this", unit="nats/token", low=0)
    missing_eos_score: float = setting(-1.0, "score of a response cut off at the cap", unit="standard deviations")
    save_every: int = setting(10, "iterations between checkpoints", unit="iterations", low=1)


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation: SFT and policy on the same held-out prompts with the same random numbers."""

    prompts: int = setting(256, "held-out prompts", unit="prompts", low=2)
    batch_size: int = setting(128, "prompts answered at once", unit="prompts", low=1)


@dataclass(frozen=True)
class Config:
    """Everything a run is a function of."""

    model: str = setting("movie-gpt2", "language model: movie-gpt2, smollm2, a folder or a hub id")
    data: str = setting("movie-reviews", "texts to learn from: a built-in name, a file, a folder or a hub id")
    seed: int = setting(1, "every random draw follows from it", low=0)
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    dtype: str = setting(
        "auto",
        "number format of the forward pass; auto is bfloat16 where it is multiplied in hardware (a GPU since Ampere, "
        "a CPU with AMX or AVX512-BF16) and float32 elsewhere",
        choices=("auto", "float32", "bfloat16"),
    )
    prompt_min: int = setting(2, "shortest prompt cut from a text", unit="words", low=1)
    prompt_max: int = setting(8, "longest prompt cut from a text", unit="words", low=1)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


SECTIONS = ("sft", "reward_model", "ppo", "evaluation")


def default_settings() -> dict[str, Any]:
    """Every setting by its full name, such as `seed` or `ppo.kl_coef`, with its default."""
    return flatten(dataclasses.asdict(Config()))


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """{"ppo": {"lr": 1}} -> {"ppo.lr": 1}, one level deep."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file by full name. A `[versions]` table, as run directories have, is passed over."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    tree.pop("versions", None)
    flat = flatten(tree)
    try:
        _check_each(flat)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return flat


def preset(name: str) -> dict[str, Any]:
    """The settings of a built-in preset."""
    names = sorted(p.stem for p in PRESETS.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"no preset '{name}'{nearest(name, names)}; the presets are: {', '.join(names)}")
    return read_toml(PRESETS / f"{name}.toml")


def nearest(name: str, names: list[str]) -> str:
    """' (did you mean ...?)' with the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close and "." not in name:  # 'kl_coeff' should find 'ppo.kl_coef'
        tails = {full.rpartition(".")[2]: full for full in names}
        close = [tails[t] for t in difflib.get_close_matches(name, list(tails), n=1, cutoff=0.5)]
    return f" (did you mean '{close[0]}'?)" if close else ""


def build(*layers: dict[str, Any]) -> Config:
    """A checked Config from layers of settings by full name; a later layer beats an earlier one.

    Below them all lie the settings that a built-in model brings: a preset of its name and for it.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or outside its range, or settings that
            contradict one another.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= _check_each(layer)
    model = merged.get("model")
    if model in {p.stem for p in PRESETS.glob("*.toml")} and (brought := preset(model))["model"] == model:
        merged = brought | merged
    hints = get_type_hints(Config)
    parts = {
        s: hints[s](**{n.partition(".")[2]: v for n, v in merged.items() if n.startswith(s + ".")}) for s in SECTIONS
    }
    config = Config(**{n: v for n, v in merged.items() if "." not in n}, **parts)
    _check_together(config)
    return config


def _check_each(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with every name known and every value of its type and within its range."""
    known = _known()
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown setting '{name}'{nearest(name, list(known))}")
    return {name: _check(name, value, *known[name]) for name, value in settings.items()}


@functools.cache
def _known() -> dict[str, tuple[type, Any]]:
    """Type and metadata of every setting by full name."""
    classes = {"": Config} | {f"{s}.": get_type_hints(Config)[s] for s in SECTIONS}
    return {
        prefix + f.name: (hint, f.metadata)
        for prefix, cls in classes.items()
        for f, hint in zip(fields(cls), get_type_hints(cls).values(), strict=True)
        if f.metadata
    }


def _check(name: str, value: Any, kind: type, about: Any) -> Any:
    """`value` as `kind` within its range, or a ConfigError that says what is allowed."""
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        value = _whole(value) if kind is int else kind(value)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        word = {int: "a whole number", float: "a number", str: "text"}[kind]
        raise ConfigError(f"{name} = {value!r}: must be {word}{_range(about)}") from None
    low, high, choices = about["low"], about["high"], about["choices"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError(f"{name} = {value!r}: must be{_range(about)}")
    if choices and value not in choices:
        raise ConfigError(f"{name} = {value!r}{nearest(value, list(choices))}: must be one of {', '.join(choices)}")
    return value


def _whole(value: Any) -> int:
    """An int from an int, 1e3 or their text; not by way of float where that would round, as in a large seed."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if value != int(value):
        raise ValueError
    return int(value)


def _range(about: Any) -> str:
    low, high = about["low"], about["high"]
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    return f" at least {low:g}" if low is not None else f" at most {high:g}" if high is not None else ""


def _check_together(config: Config) -> None:
    """Settings that are each possible and impossible together."""
    if config.prompt_min > config.prompt_max:
        raise ConfigError(f"prompt_min = {config.prompt_min} is above prompt_max = {config.prompt_max}")
    if config.ppo.minibatch_size > config.ppo.batch_size:
        raise ConfigError(
            f"ppo.minibatch_size = {config.ppo.minibatch_size} is above ppo.batch_size = {config.ppo.batch_size}"
        )


def to_toml(config: Config, versions: dict[str, str]) -> str:
    """`config` as TOML that `read_toml` reads back, with the versions that made it."""
    tree = dataclasses.asdict(config)
    lines = [f"{k} = {_toml(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    tables = {k: v for k, v in tree.items() if isinstance(v, dict)} | {"versions": versions}
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes are JSON's, and this
    return repr(value)
