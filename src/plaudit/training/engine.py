"""The one place that chooses how models are run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch

from plaudit.errors import ModelError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.families import supports
from plaudit.models.plain import PlainEngine

Engine: TypeAlias = PlainEngine | FastEngine


def choose_engine(name: str, dtype: torch.dtype, model: Any, folder: Path) -> Engine:
    """The engine for a model and for the models that are trained from it.

    Args:
        name: "plain", "fast", or "auto" for fast where it knows the model's family.
        folder: where activations lie that are too large for memory.

    Raises:
        ModelError: "fast" does not know the family.
    """
    if name == "plain" or (name == "auto" and not supports(model)):
        return PlainEngine(dtype)
    if not supports(model):
        raise ModelError(
            f"engine = 'fast': it cannot run a {model.config.model_type} model with "
            f"{model.config._attn_implementation} attention; use engine = 'auto' or 'plain'"
        )
    return FastEngine(dtype, folder)
