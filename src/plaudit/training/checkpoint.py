"""Checkpoints at step boundaries: safetensors and JSON, written beside their place, verified, then renamed into place.

checkpoints/step-00000010/
  tensors.safetensors   parameters and optimizer moments
  state.json            step, and what else the stage must remember
  manifest.json         SHA-256 of both, and the fingerprint of the settings
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plaudit.errors import RunError

_KEEP = 2


class Checkpoints:
    """The checkpoints of one stage.

    Args:
        folder: where they lie.
        fingerprint: names the settings of the run; a checkpoint of other settings is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any] | None = None
    ) -> None:
        """Save the state after `step` steps. A crash at any moment leaves the older checkpoints intact."""
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_tensors(model, optimizer), partial / "tensors.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, **(state or {})}))
        hashes = {name: _sha256(partial / name) for name in ("tensors.safetensors", "state.json")}
        (partial / "manifest.json").write_text(json.dumps({"fingerprint": self.fingerprint, "sha256": hashes}))
        for path in partial.iterdir():
            _fsync(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _fsync(self.folder)
        for old in self._steps()[:-_KEEP]:
            shutil.rmtree(old)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Load the newest checkpoint into model and optimizer; its state, or {"step": 0} when there is none.

        Raises:
            RunError: the checkpoint is damaged, or belongs to other settings.
        """
        steps = self._steps()
        if not steps:
            return {"step": 0}
        newest = steps[-1]
        try:
            manifest = json.loads((newest / "manifest.json").read_text())
            whole = all(_sha256(newest / name) == digest for name, digest in manifest["sha256"].items())
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            raise RunError(f"{newest}: damaged checkpoint; delete this folder to go on from the one before it")
        if manifest.get("fingerprint") != self.fingerprint:
            raise RunError(f"{newest}: made with other settings; use those, or --overwrite to begin anew")
        _restore(load_file(newest / "tensors.safetensors"), model, optimizer)
        return json.loads((newest / "state.json").read_text())

    def weights(self) -> dict[int, Path]:
        """Where the tensors after each number of steps lie, of the checkpoints that are kept."""
        return {int(path.name.removeprefix("step-")): path / "tensors.safetensors" for path in self._steps()}

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def load_weights(path: Path, model: nn.Module) -> None:
    """Set the parameters of `model` that the checkpoint's `tensors.safetensors` at `path` holds.

    Raises:
        RunError: the checkpoint holds parameters that the model does not have.
    """
    tensors = load_file(path)
    saved = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    # Not strict: a checkpoint holds what learned, and tied weights under one of their names.
    unknown = model.load_state_dict(saved, strict=False).unexpected_keys
    if unknown:
        raise RunError(f"{path}: holds '{unknown[0]}', which the model does not have")


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of the parameters that the optimizer trains; tied weights come once."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [(n, p) for n, p in model.named_parameters() if id(p) in trained]


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in _named(model, optimizer):
        tensors[f"model/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    return tensors


@torch.no_grad()
def _restore(tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set parameters and optimizer state, in place where the state exists: it may lie where the optimizer wants it."""
    for name, parameter in _named(model, optimizer):
        parameter.copy_(tensors[f"model/{name}"])
        state = optimizer.state[parameter]
        for full, value in tensors.items():
            _, _, key_and_name = full.partition("optimizer/")
            key, _, of = key_and_name.partition("/")
            if of == name:
                if key in state:
                    state[key].copy_(value)
                else:
                    state[key] = value if key == "step" else value.to(parameter.device)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
