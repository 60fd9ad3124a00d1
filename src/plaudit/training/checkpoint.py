"""Checkpoints after a step: safetensors and JSON, written to a temporary folder, renamed, and verified when loaded.

checkpoints/step-00000010/
  tensors.safetensors   parameters and optimizer moments
  state.json            step, and other state of the stage
  manifest.json         SHA-256 of both files, and the fingerprint of the settings
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plaudit.errors import RunError

_KEEP = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage in a folder. One that was made with another fingerprint is refused."""

    folder: Path
    fingerprint: str

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
        """Load the newest checkpoint into model and optimizer, and return its state; {"step": 0} if there is none.

        Raises:
            RunError: the checkpoint is damaged, was made with other settings, or by an engine with another number
                format.
        """
        if not (steps := self._steps()):
            return {"step": 0}
        newest = steps[-1]
        try:
            manifest = json.loads((newest / "manifest.json").read_text())
            whole = all(_sha256(newest / name) == digest for name, digest in manifest["sha256"].items())
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            raise RunError(f"{newest}: damaged checkpoint; delete this folder to continue from the previous checkpoint")
        if manifest.get("fingerprint") != self.fingerprint:
            raise RunError(f"{newest}: made with other settings; use those settings, or start again with --overwrite")
        tensors = load_file(newest / "tensors.safetensors")
        if any(tensors[f"model/{name}"].dtype != p.dtype for name, p in _trained(model, optimizer).items()):
            raise RunError(f"{newest}: made with another engine; set engine as before, or start again with --overwrite")
        _restore(tensors, model, optimizer)
        return json.loads((newest / "state.json").read_text())

    def weights(self) -> dict[int, Path]:
        """Paths of the tensors in the existing checkpoints, by number of steps."""
        return {int(path.name.removeprefix("step-")): path / "tensors.safetensors" for path in self._steps()}

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the parameters in a checkpoint's `tensors.safetensors` at `path` into `model`, which must have them all."""
    saved = {key.removeprefix("model/"): value for key, value in load_file(path).items() if key.startswith("model/")}
    # Not strict: a checkpoint has only the trained parameters, and tied weights under one of their names.
    unknown = model.load_state_dict(saved, strict=False).unexpected_keys
    if unknown:
        raise RunError(f"{path}: holds '{unknown[0]}', which the model does not have")


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer trains, by name; tied weights appear once."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in _trained(model, optimizer).items():
        tensors[f"model/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    return tensors


@torch.no_grad()
def _restore(tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set parameters and optimizer state. Existing state is set in place: the optimizer may have chosen its storage."""
    parameters = _trained(model, optimizer)
    for full, value in tensors.items():
        kind, *key, name = full.split("/")
        state = optimizer.state[parameters[name]]
        if kind == "model":
            parameters[name].copy_(value)
        elif key[0] in state:
            state[key[0]].copy_(value)
        else:
            state[key[0]] = value if key[0] == "step" else value.to(parameters[name].device)


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
