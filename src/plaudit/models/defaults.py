"""Defaults that fit the model: settings that follow from its size and window, for every model without its own preset.

The reasons for each rule are in docs/models.md. This module must not import torch at once, because `--help` reads it.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, NamedTuple

from plaudit.config import ALGORITHMS, section_class


class Rule(NamedTuple):
    """The settings of models up to a size."""

    parameters: float  # of the backbone, at most: without the embeddings, which depend on the vocabulary
    sft_lr: float
    reward_model_lr: float
    policy_lr: float  # of PPO; three times this for an algorithm that takes one large step an iteration
    supervised_share: float  # of the layers that SFT and the reward model train, from the output
    policy_share: float  # of the layers that the algorithms of a policy train
    responses: int  # in one iteration
    microbatch: int  # sequences in one pass; 0: the whole batch


RULES = (
    Rule(1e7, 1e-3, 5e-4, 3e-4, 1, 1 / 2, 128, 0),
    Rule(5e7, 5e-4, 3e-4, 1e-4, 1, 1 / 2, 128, 16),
    Rule(5e8, 2e-4, 2e-4, 1e-4, 1 / 3, 1 / 4, 64, 8),
    Rule(2e9, 1e-4, 1e-4, 3e-5, 1 / 4, 1 / 8, 64, 4),
    Rule(math.inf, 2e-5, 2e-5, 1e-5, 1 / 8, 1 / 8, 64, 2),
)
_MOST_TOKENS, _MOST_NEW_TOKENS = 256, 48
_LORA_FACTOR, _LORA_MOST = 10, 1e-3  # Schulman et al. 2025: LoRA learns best at ten times the rate of all weights
_DEFAULTS = {name: {f.name: f.default for f in fields(section_class(name))} for name in ALGORITHMS}
POLICIES = tuple(name for name, settings in _DEFAULTS.items() if "max_new_tokens" in settings)
SAMPLING = tuple(name for name in POLICIES if "iterations" in _DEFAULTS[name])  # responses during training
FITTED = frozenset(
    {f"{s}.{n}" for s in ("sft", "reward_model") for n in ("lr", "train_layers", "microbatch_size", "max_tokens")}
    | {
        f"{policy}.{name}"
        for policy in POLICIES
        for name in ("lr", "train_layers", "microbatch_size", "max_new_tokens", "temperature")
    }
    | {f"{policy}.{name}" for policy in SAMPLING for name in ("batch_size", "minibatch_size")}
    | {f"{policy}.max_tokens" for policy in POLICIES if policy not in SAMPLING}
    | {"evaluation.batch_size"}
)


def settings_for(parameters: int, layers: int, window: int, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of FITTED that are not `given`, by full name.

    Args:
        parameters: of the backbone.
        layers: of the backbone; 0 where they are not known.
        window: tokens that the model reads at once.
        given: what the user has chosen, by full name.
    """
    rule = next(rule for rule in RULES if parameters <= rule.parameters)

    def top(share: float) -> int:
        return 0 if share == 1 else math.ceil(share * layers)

    found: dict[str, Any] = {"evaluation.batch_size": min(rule.responses, 16 * (rule.microbatch or 16))}
    for stage, lr in (("sft", rule.sft_lr), ("reward_model", rule.reward_model_lr)):
        found |= {f"{stage}.lr": lr, f"{stage}.train_layers": top(rule.supervised_share)}
        found |= {f"{stage}.microbatch_size": rule.microbatch, f"{stage}.max_tokens": min(window, _MOST_TOKENS)}
    for policy in POLICIES:
        found |= {
            f"{policy}.lr": rule.policy_lr,
            f"{policy}.train_layers": top(rule.policy_share),
            f"{policy}.temperature": 1.0,
            f"{policy}.microbatch_size": rule.microbatch,
            f"{policy}.max_new_tokens": max(1, min(_MOST_NEW_TOKENS, window // 2)),
        }
        if policy not in SAMPLING:
            found[f"{policy}.max_tokens"] = min(window, _MOST_TOKENS)
            continue
        batch = given.get(f"{policy}.batch_size", max(rule.responses, given.get(f"{policy}.minibatch_size", 0)))
        one_step = _DEFAULTS[policy]["minibatch_size"] == _DEFAULTS[policy]["batch_size"]
        found |= {
            f"{policy}.lr": 3 * rule.policy_lr if one_step else rule.policy_lr,
            f"{policy}.batch_size": batch,
            f"{policy}.minibatch_size": batch if one_step else max(1, batch // 4),
        }
    for stage in ("sft", "reward_model", *POLICIES):
        if given.get(f"{stage}.lora_rank"):
            found[f"{stage}.lr"] = min(_LORA_FACTOR * found[f"{stage}.lr"], _LORA_MOST)
            found[f"{stage}.train_layers"] = 0
    return {name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in found.items() if name not in given}


def fit(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What is chosen for a model by name, and a line that says it; nothing for a built-in model, which has a preset.

    Raises:
        ModelError: the model cannot be opened.
    """
    if given.keys() >= FITTED:
        return {}, ""
    from plaudit.errors import ModelError
    from plaudit.models import hub, layers, loading

    if name in hub.BUILT_IN:
        return {}, ""
    lm = loading.model_without_weights(name)
    total = sum(p.numel() for p in lm.parameters())
    backbone = loading.backbone_size(lm)
    try:
        depth = len(layers.layers(lm))
    except ModelError:
        depth = 0
    chosen = settings_for(backbone, depth, loading.window(lm), given)
    return chosen, f"settings for {millions(total)} parameters: {_in_words(chosen)}"


def millions(number: float) -> str:
    """A number of parameters, short: 4.2M, 135M, 1.7B."""
    number /= 1e6
    if number >= 1000:
        return f"{number / 1000:.1f}B"
    return f"{number:.{0 if number >= 100 else 1 if number >= 0.1 else 2}f}M"


def _in_words(chosen: dict[str, Any]) -> str:
    """The settings by stage, without those of the algorithms that `run` does not use; config.toml has them too."""
    stages: dict[str, list[str]] = {}
    for full, value in chosen.items():
        stage, _, name = full.partition(".")
        stages.setdefault(stage, []).append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return "; ".join(f"{stage} {', '.join(parts)}" for stage, parts in stages.items() if stage not in POLICIES[1:])
