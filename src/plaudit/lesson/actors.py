"""What policy, reference and reward model have in common in memory."""

from __future__ import annotations

import re

import torch
from torch import nn

from plaudit.algorithms.actors import Actors
from plaudit.lesson.tables import Column, Html, table


def memory_table(actors: Actors) -> Html:
    """Part by part: parameters of each model, how many learn, and how many it holds in common with the policy."""
    models = {"policy": actors.policy, "reference": actors.reference, "reward model": actors.reward_model}
    parts = {name: by_part(model) for name, model in models.items()}
    owned = {p.data_ptr() for p in actors.policy.parameters()}
    rows = list(dict.fromkeys(part for found in parts.values() for part in found))
    columns = []
    for name, found in parts.items():
        sizes = [found.get(row, []) for row in rows]
        columns.append(_thousands(name, [sum(p.numel() for p in ps) for ps in sizes]))
        if name == "policy":
            columns.append(_thousands("of it learns", [sum(p.numel() for p in ps if p.requires_grad) for ps in sizes]))
        else:
            common = [sum(p.numel() for p in ps if p.data_ptr() in owned) for ps in sizes]
            columns.append(_thousands("of it shared", common))
    return table("part", rows, columns, "Thousands of parameters")


def by_part(model: nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """A model's parameters by the part that they belong to, in the order of the forward pass."""
    parts: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(_part(name), []).append(parameter)
    return parts


def _part(name: str) -> str:
    block = re.search(r"\.(\d+)\.", name)
    if block:
        return f"block {int(block.group(1)) + 1}"
    if name.startswith("value_head"):
        return "value head"
    if name.startswith("score"):
        return "score head"
    return "last norm" if re.search(r"(ln_f|norm)\.", name) else "embeddings"


def _thousands(name: str, counts: list[int]) -> Column:
    return Column(name, [c / 1000 if c else float("nan") for c in counts], "{:,.1f}")
