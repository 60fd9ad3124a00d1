"""The layers of a causal language model: which of them learn, and weights that several models share in memory."""

from typing import Any

import torch
from torch import nn

from plaudit.errors import ModelError


def layers(lm: Any) -> nn.ModuleList:
    """The layers of a model, lowest first."""
    return _stack(lm)[1]


def number_of_frozen_layers(lm: Any, train_layers: int, setting: str = "train_layers") -> int:
    """How many of the lowest layers are frozen when the top `train_layers` learn; 0 when all learn.

    Raises ModelError, with the name of the setting, if the model has fewer layers or does not list them.
    """
    if not train_layers:
        return 0
    total = len(layers(lm))
    if train_layers > total:
        raise ModelError(f"{setting} = {train_layers}: the model has {total} layers; use 0 to train all of them")
    return total - train_layers


def freeze_lower_layers(lm: Any, train_layers: int, setting: str = "train_layers") -> None:
    """Let only the top layers of a model and its last norm learn; 0 leaves everything trainable.

    The embeddings are frozen too, and with them an output embedding that is tied to them. Errors are those of
    `number_of_frozen_layers`.
    """
    frozen = number_of_frozen_layers(lm, train_layers, setting)
    if train_layers:
        parent, all_layers = _stack(lm)
        lm.requires_grad_(False)
        all_layers[frozen:].requires_grad_(True)
        for name, child in parent.named_children():
            if "norm" in type(child).__name__.lower() and "embed" not in name:
                child.requires_grad_(True)


def share_weights(owner: nn.Module, other: nn.Module) -> None:
    """Let `other` use the parameters of `owner` that are frozen in both and equal in both: they take memory once.

    Layers with a LoRA adapter are compared by their base weights. A sharded model shares nothing: it keeps its own
    share of each weight.
    """
    if any(hasattr(p, "to_local") for module in (owner, other) for p in module.parameters()):
        return
    owned = {name.replace(".base_layer.", "."): p for name, p in owner.named_parameters(remove_duplicate=False)}
    for full, own in list(other.named_parameters(remove_duplicate=False)):
        shared = owned.get(full.replace(".base_layer.", "."))
        if shared is None or shared is own or shared.requires_grad or own.requires_grad or shared.shape != own.shape:
            continue
        if shared.dtype == own.dtype and torch.equal(shared, own):
            parent, _, last = full.rpartition(".")
            setattr(other.get_submodule(parent), last, shared)


def _stack(lm: Any) -> tuple[nn.Module, nn.ModuleList]:
    """The module that holds the list of layers, and the list."""
    number = getattr(lm.config, "num_hidden_layers", None)
    for parent in lm.base_model.modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == number:
                return parent, child
    raise ModelError(f"the layers of a {lm.config.model_type} model are not known; use train_layers = 0 to train all")
