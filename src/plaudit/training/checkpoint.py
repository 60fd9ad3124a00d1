"""Checkpoints after a step: safetensors and JSON, written to a temporary folder, renamed, and verified when loaded.

checkpoints/step-00000010/
  tensors.safetensors   parameters and optimizer moments; of a sharded model one file for each rank, see `shards`
  state.json            step, fingerprint of settings and inputs, other state of the stage, length and hash of its logs
  manifest.json         SHA-256 of these files
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plaudit.errors import RunError
from plaudit.files import move_folder, partial_of, remove_folder, sha256, writes
from plaudit.models.sharding import is_share
from plaudit.training import dist, shards
from plaudit.training.metrics import MetricsLog

_KEEP = 2
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
        """Save the state after `step` steps. A crash at any moment leaves the older checkpoints intact.

        All ranks must call it.
        """
        final = self.folder / f"step-{step:08d}"
        partial = partial_of(final)
        if writes():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        shards.write(partial, _tensors(model, optimizer))
        if not writes():
            return
        names = shards.files_of(partial)
        content = {**(state or {}), "step": step, "fingerprint": self.fingerprint, "logs": self._log.position()}
        content |= {"tensors": names} if names != [shards.FILE] else {}
        text = json.dumps(content, allow_nan=False)
        (partial / "state.json").write_text(text, encoding="utf-8")
        hashes = {name: sha256(partial / name) for name in (*names, "state.json")}
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
        path, state, damaged = dist.on_main(self._newest)
        if path is not None:
            there = shards.described(path)
            if any(there[f"model/{name}"][1] != p.dtype for name, p in _trained(model, optimizer).items()):
                raise dist.everywhere(RunError(
                    f"{path}: made with another engine; set engine and sharding as before, or start again with "
                    "--overwrite"
                ))  # fmt: skip
            _restore(path, there, model, optimizer)
        found = f"damaged checkpoint, set aside; training goes on from step {state['step']}"
        self._notes = tuple(f"{path}: {found}" for path in damaged)
        logs = state.pop("logs")
        dist.on_main(lambda: self._log.cut_back(state["step"], logs))
        return state

    def _newest(self) -> tuple[Path | None, dict[str, Any], list[Path]]:
        """The newest undamaged checkpoint and its state, and the damaged ones, which are renamed."""
        damaged: list[Path] = []
        for path in reversed(self._steps()):
            state = self._verified(path)
            if state is not None:
                return path, state, damaged
            aside = path.with_name(_DAMAGED + path.name)
            remove_folder(aside)
            path.rename(aside)
            damaged.append(aside)
        if damaged or any(self.folder.glob(f"{_DAMAGED}*")):
            raise RunError(f"{self.folder}: every checkpoint is damaged; start the stage again with --overwrite")
        return None, {"step": 0, "logs": {}}, []

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
            names = state.pop("tensors", [shards.FILE])
            whole = manifest["sha256"] == {name: sha256(path / name) for name in (*names, "state.json")}
            if not (whole and names) or state["step"] != int(path.name.removeprefix("step-")):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if state.pop("fingerprint") != self.fingerprint:
            raise RunError(f"{path}: made with other settings; use those settings, or start again with --overwrite")
        return state

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def due(step: int, total: int, every: int, also: Container[int] = ()) -> bool:
    """Whether to save a checkpoint after a step, counted from 1, of `total`."""
    return step % every == 0 or step == total or step in also


def saved_weights(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder, by number of steps."""
    return {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*")}


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the parameters in the checkpoint at `path` into `model`, which must have them all."""
    tensors = shards.read(path)
    saved = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    # Not strict: a checkpoint has only the trained parameters, and tied weights under one of their names.
    unknown = model.load_state_dict(saved, strict=False).unexpected_keys
    if unknown:
        raise RunError(f"{path}: holds '{unknown[0]}', which the model does not have")


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer trains, by name; tied weights appear once."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What a checkpoint has, by name; of a sharded model the shares of this rank."""
    tensors = {}
    for name, parameter in _trained(model, optimizer).items():
        tensors[f"model/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    return {name: tensor if is_share(tensor) else tensor.contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _restore(path: Path, there: shards.Described, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set parameters and optimizer state. Existing state is set in place: the optimizer may have chosen its storage."""
    parameters, tensors = _trained(model, optimizer), {}
    for full in there:
        kind, *key, name = full.split("/")
        parameter = parameters[name]
        if kind == "model":
            tensors[full] = parameter.detach()
            continue
        state = optimizer.state[parameter]
        if key[0] not in state:
            size, dtype = there[full]
            like = size == parameter.shape
            state[key[0]] = torch.zeros_like(parameter, dtype=dtype) if like else torch.zeros(size, dtype=dtype)
        tensors[full] = state[key[0]]
    shards.read(path, tensors)
