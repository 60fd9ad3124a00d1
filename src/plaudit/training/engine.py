"""The one place that chooses which layers of a model learn, and how models are run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from plaudit.errors import ModelError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.fast.families import supports
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.lora import add_adapters
from plaudit.models.plain import PlainEngine
from plaudit.models.tokenizer import Runs
from plaudit.training import dist
from plaudit.training.preparation import announce
from plaudit.training.run import Run

Engine: TypeAlias = PlainEngine | FastEngine


def prepare_to_learn(run: Run, stage: str, model: Any, texts: Iterable[Runs] = (), name: str = "") -> Engine:
    """Freeze lower layers, add adapters and shard the model, as the settings say; returns the engine, prepared for it.

    `texts` are token ids of the texts that every epoch reads. The values of adapters are drawn by `name`, which is that
    of the stage by default.
    """
    settings = getattr(run.config, stage)
    freeze_lower_layers(model, settings.train_layers, f"{stage}.train_layers")
    add_adapters(model, settings, run.config.seed, name or stage)
    engine = choose_engine(run, stage, model)
    engine.prepare(model)
    dist.wrap(model, run.config.sharding)
    engine.remember(model, [[*chain(*runs)] for runs in texts], partial(announce, "reading the texts"), dist.in_turn)
    return engine


def choose_engine(run: Run, stage: str, model: Any) -> Engine:
    """The engine for a model of a stage, as `engine` in the settings says."""
    name, supported = run.config.engine, supports(model)
    if name == "plain" or (name == "auto" and not supported):
        return PlainEngine(run.dtype)
    if not supported:
        raise ModelError(
            f"engine = 'fast': it cannot run a {model.config.model_type} model with "
            f"{model.config._attn_implementation} attention; use engine = 'auto' or 'plain'"
        )
    # Adapters are added to the layers' weights, and FSDP2 divides weights of one format.
    whole = getattr(getattr(run.config, stage), "lora_rank", 0) or run.config.sharding != "none"
    # Every rank has a file of activations of its own, which is not to go over the network.
    folder = Path(tempfile.gettempdir()) if dist.size() > dist.on_this_host() else run.folder(stage)
    return FastEngine(run.dtype, folder, round_matrices=not whole)
