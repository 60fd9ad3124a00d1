"""Checkpoints after a step: safetensors and JSON, written to a temporary folder, renamed, and verified when loaded.

checkpoints/step-00000010/
  tensors.safetensors   parameters and optimizer moments
  state.json            step, fingerprint of settings and inputs, other state of the stage, length and hash of its logs
  manifest.json         SHA-256 of both files
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plaudit.errors import RunError
from plaudit.files import move_folder, partial_of, remove_folder, sha256, writes
from plaudit.training import dist
from plaudit.training.metrics import MetricsLog

_KEEP = 2
_FILES = ("tensors.safetensors", "state.json")
_DAMAGED = "damaged-"


class Checkpoints:
    """The checkpoints of one stage.

    Args:
        folder: the folder that contains them.
        fingerprint: identifies the stage's settings and inputs; a checkpoint with another fingerprint is an error.
        log: the stage's log files, which `restore` truncates to the step of the checkpoint.
    """

    def __init__(self, folder: Path, fingerprint: str, log: MetricsLog) -> None:
        self.folder, self.fingerprint, self._log = folder, fingerprint, log
        self._notes: tuple[str, ...] = ()

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any] | None = None
    ) -> None:
        """Save the state after `step` steps. A crash at any moment leaves the older checkpoints intact."""
        if not writes():
            return
        final = self.folder / f"step-{step:08d}"
        partial = partial_of(final)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_tensors(model, optimizer), partial / "tensors.safetensors")
        content = {**(state or {}), "step": step, "fingerprint": self.fingerprint, "logs": self._log.position()}
        (partial / "state.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        hashes = {name: sha256(partial / name) for name in _FILES}
        (partial / "manifest.json").write_text(json.dumps({"sha256": hashes}), encoding="utf-8")
        move_folder(partial, final)
        for old in self._steps()[:-_KEEP]:
            remove_folder(old)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Load the newest undamaged checkpoint into model and optimizer, and truncate the logs to its step.

        Damaged checkpoints are renamed, and `take_notes` reports them.

        Returns:
            the state that was saved with it; {"step": 0} if there is no checkpoint.

        Raises:
            RunError: every checkpoint is damaged, a log is damaged, or a checkpoint was made with other settings or
                another number format.
        """
        if dist.rank():
            dist.barrier()  # damaged checkpoints have been set aside
        damaged = []
        for path in reversed(self._steps()):
            state = self._verified(path)
            if state is not None:
                break
            aside = path.with_name(_DAMAGED + path.name)
            remove_folder(aside)
            path.rename(aside)
            damaged.append(aside)
        else:
            if damaged or any(self.folder.glob(f"{_DAMAGED}*")):
                raise RunError(f"{self.folder}: every checkpoint is damaged; start the stage again with --overwrite")
            state, path = {"step": 0, "logs": {}}, None
        if path is not None:
            tensors = load_file(path / "tensors.safetensors")
            if any(tensors[f"model/{name}"].dtype != p.dtype for name, p in _trained(model, optimizer).items()):
                raise RunError(
                    f"{path}: made with another engine; set engine as before, or start again with --overwrite"
                )
            _restore(tensors, model, optimizer)
        found = f"damaged checkpoint, set aside; training goes on from step {state['step']}"
        self._notes = tuple(f"{path}: {found}" for path in damaged)
        logs = state.pop("logs")
        if not dist.rank():
            self._log.cut_back(state["step"], logs)
            dist.barrier()
        return state

    def take_notes(self) -> tuple[str, ...]:
        """One sentence for each damaged checkpoint that `restore` skipped; returned only once, for the next report."""
        notes, self._notes = self._notes, ()
        return notes

    def _verified(self, path: Path) -> dict[str, Any] | None:
        """The state of a checkpoint; None if one of its files is missing or damaged.

        Raises:
            RunError: it is undamaged, but was made with other settings or inputs.
        """
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            whole = manifest["sha256"] == {name: sha256(path / name) for name in _FILES}
            if not whole or state["step"] != int(path.name.removeprefix("step-")):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if state.pop("fingerprint") != self.fingerprint:
            raise RunError(f"{path}: made with other settings; use those settings, or start again with --overwrite")
        return state

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def saved_weights(folder: Path) -> dict[int, Path]:
    """Paths of the tensors in the checkpoints of a folder, by number of steps."""
    return {int(path.name.removeprefix("step-")): path / "tensors.safetensors" for path in folder.glob("step-*")}


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
