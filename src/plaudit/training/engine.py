"""The one place that chooses how models are run."""

from __future__ import annotations

from typing import Any, TypeAlias

from plaudit.errors import ModelError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.families import supports
from plaudit.models.plain import PlainEngine
from plaudit.training.run import Run

Engine: TypeAlias = PlainEngine | FastEngine


def choose_engine(run: Run, stage: str, model: Any) -> Engine:
    """The engine for a model of a stage, as `engine` in the settings says.

    Raises:
        ModelError: engine = "fast" does not know the model's family or attention.
    """
    name, supported = run.config.engine, supports(model)
    if name == "plain" or (name == "auto" and not supported):
        return PlainEngine(run.dtype)
    if not supported:
        raise ModelError(
            f"engine = 'fast': it cannot run a {model.config.model_type} model with "
            f"{model.config._attn_implementation} attention; use engine = 'auto' or 'plain'"
        )
    lora_rank = getattr(getattr(run.config, stage), "lora_rank", 0)
    return FastEngine(run.dtype, run.folder(stage), round_matrices=not lora_rank)
