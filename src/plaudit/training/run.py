"""The run directory: one folder for each stage, with a record of the settings, data and folders it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plaudit.config import ALGORITHMS, Config, build, flatten, read_saved, to_toml
from plaudit.data.corpus import load
from plaudit.data.splits import Splits
from plaudit.errors import RunError
from plaudit.files import (
    json_text,
    link_or_copy,
    partial_of,
    remove_folder,
    sha256,
    share_tensors,
    sweep,
    write_atomic,
    write_json,
)
from plaudit.models import loading
from plaudit.models.ensemble import members_of
from plaudit.rewards import Source, described, sources_of, uses_model
from plaudit.training import dist, ending, lock, manifest, trackers
from plaudit.training.checkpoint import Checkpoints
from plaudit.training.device import device_named, multiplies_bfloat16
from plaudit.training.metrics import MetricsLog
from plaudit.training.stages import NO_RESULT, OTHER_FILES, ancestors, can_learn_from, needs_of, remove
from plaudit.training.versions import made_with, versions

STAGES = ("sft", "reward_model", "ppo", "evaluation")  # of `plaudit run`
_INPUTS_FILE = "inputs.json"
_UNSEALED = ("summary.json", "timing.jsonl", "watch.jsonl", manifest.FILE, trackers.FILE)  # written later, or vary
_REMEDY = "choose another --out, or use --overwrite"
_NOT_HASHED = ("fingerprint", "made_with", "reward_files")  # entries of `inputs`


@dataclass(frozen=True)
class Run:
    """An open run directory and its settings."""

    path: Path
    config: Config  # as in config.toml: dtype = "auto" is replaced by the number format that it chose
    saved_after: Container[int] = dataclasses.field(default=(), kw_only=True)  # steps, beside every `save_every`

    @staticmethod
    def open(path: Path, config: Config, *, resume: bool, overwrite: bool, stages: tuple[str, ...]) -> Run:
        """Prepare `path` for `stages` and lock it for this process, or change nothing and raise an error.

        Args:
            resume: continue these stages where they stopped.
            overwrite: remove the results of these stages, and of all stages that were made from them.

        Raises:
            RunError: a folder exists already, is damaged, belongs to another process, or was made with other settings
                or data; or there is nothing to resume.
        """
        with dist.opening(f"{path.absolute()} {' '.join(stages)}") as again:
            how = {"resume": resume or again, "overwrite": overwrite and not again}
            opened = dist.on_main(lambda: Run._open(path, config, stages=stages, **how).config)
        return Run(lock.check_shared(path), opened)

    @staticmethod
    def _open(path: Path, config: Config, *, resume: bool, overwrite: bool, stages: tuple[str, ...]) -> Run:
        """`open` in the process that writes the files."""
        trackers.check_installed(config.track)
        saved = path / "config.toml"
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file; --out takes a folder")
        known = (*ALGORITHMS, *manifest.EVALUATION_FILES, *OTHER_FILES, partial_of(saved).name)
        unknown = [p.name for p in path.glob("*") if p.name not in known]
        if unknown and not saved.exists():
            raise RunError(f"{path}: not a run directory (it has '{unknown[0]}'); choose an empty or a new folder")
        if resume and not saved.exists():
            raise RunError(f"{path}: nothing to resume here (config.toml is missing); start without --resume")
        begun = [s for s in ALGORITHMS if any((path / s).glob("*"))]
        existing = [s for s in stages if s in begun]
        if existing and not resume and not overwrite:
            raise RunError(
                f"{path}: already holds {', '.join(existing)}; use --resume to continue, or --overwrite to start again"
            )
        made_from = {s for s in (*ALGORITHMS, "evaluation") if ancestors(s) & set(stages)}
        removed = made_from | set(stages) if overwrite else set()
        kept = [s for s in begun if s not in removed]
        if kept and not saved.exists():
            raise RunError(f"{path}: config.toml is missing, so its settings are unknown; use --overwrite")
        before = Run(path, build(read_saved(saved)) if kept else config)
        run = Run(path, before.resolved(config))  # the number format of the kept stages, even on another machine
        for stage in kept:
            run.check_inputs(stage)
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(path)
        sweep(path)
        ending.forget(path, {*stages, *removed})
        for stage in removed:
            remove(path, stage)
        for stage in kept:  # left if a crash came just before their removal
            if run.complete(stage):
                run._remove_checkpoints(stage)
        if not (kept and before.config == run.config):  # otherwise the kept stages' versions stay
            remove(path, "evaluation")
            write_atomic(saved, to_toml(run.config, versions(config.model)))
        return run

    @staticmethod
    def existing(path: Path) -> Run:
        """The run directory at `path`, for reading: without a lock."""
        if dist.started_by_torchrun() > dist.size():
            raise RunError("this does not run in several processes (WORLD_SIZE > 1); start it without torchrun")
        if not (path / "config.toml").exists():
            raise RunError(f"{path}: no run here (config.toml is missing); make one with plaudit run --out {path}")
        return Run(path, build(read_saved(path / "config.toml")))

    def branch(self, path: Path, config: Config, stages: tuple[str, ...], *, overwrite: bool = False) -> Run:
        """A run directory at `path` with other settings, which shares the folders of `stages` with this one.

        Their files are hard links and take no disk space. An existing run at `path` is used, unless `overwrite`.
        """
        config = self.resolved(config)
        for stage in stages:
            self.model(stage)
        if path.exists() and not (path / "config.toml").exists():
            raise RunError(f"{path}: holds no run; choose a new folder")
        if overwrite and path.exists():
            shutil.rmtree(path)
        if not path.exists():
            partial = partial_of(path)
            shutil.rmtree(partial, ignore_errors=True)
            for stage in stages:
                ignore = shutil.ignore_patterns("checkpoints")
                shutil.copytree(self.folder(stage), partial / stage, copy_function=link_or_copy, ignore=ignore)
            write_atomic(partial / "config.toml", to_toml(config, versions(config.model)))
            partial.rename(path)
        return Run(path, config)

    def folder(self, stage: str) -> Path:
        """The folder of a stage's model, metrics and checkpoints."""
        return self.path / stage

    def model(self, stage: str) -> str:
        """The folder of a stage's finished model; a RunError if the stage has not finished or a file has changed."""
        command = f"plaudit {stage.replace('_', '-')} --out {self.path}"
        if not self.complete(stage):
            raise RunError(f"{self.path}: no finished {stage} here; run: {command}")
        if damaged := manifest.first_damaged(self.folder(stage)):
            raise RunError(
                f"{damaged}: missing or changed since {stage} finished; put it back, or run: {command} --overwrite"
            )
        return str(self.folder(stage))

    def complete(self, stage: str) -> bool:
        """Whether the stage has finished."""
        if stage == "evaluation":  # takes seconds: repeated if a file is damaged
            return (self.path / "report.html").exists() and manifest.first_damaged(self.path) is None
        return (self.folder(stage) / "summary.json").exists()

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        """Write the folder's manifest, then summary.json, which marks the stage as finished; remove its checkpoints."""
        dist.on_main(lambda: self._finish(stage, summary))
        lock.wait_for(self.folder(stage) / "summary.json")

    def _finish(self, stage: str, summary: dict[str, Any]) -> None:
        folder, text = self.folder(stage), json_text(summary)
        share_tensors(folder)
        files = [p for p in folder.rglob("*") if p.is_file() and folder / "checkpoints" not in p.parents]
        manifest.write(folder, [p for p in files if p.name not in _UNSEALED], {"summary.json": text})
        write_atomic(folder / "summary.json", text)
        self._remove_checkpoints(stage)

    def _remove_checkpoints(self, stage: str) -> None:
        if not self.config.keep_checkpoints:
            remove_folder(self.folder(stage) / "checkpoints")

    def summary(self, stage: str) -> dict[str, Any]:
        """The figures that `finish` wrote."""
        return json.loads(Path(self.model(stage), "summary.json").read_text(encoding="utf-8"))

    def log(self, stage: str) -> MetricsLog:
        """The stage's metrics files."""
        return MetricsLog(self.folder(stage))

    @property
    def data(self) -> Splits:
        """The data set."""
        return load(self.config.data)

    @property
    def judged(self) -> Splits:
        """What the reward model learns from: a part of the data set, or data of its own."""
        own = self.config.reward_model.judgements
        return load(dataclasses.replace(self.config.data, name=own, evaluation="", split="")) if own else self.data

    def reads_judgements(self, stage: str) -> bool:
        """Whether a stage learns from the judgements of the data: the reward model does, and others by `source`."""
        source = getattr(getattr(self.config, stage, None), "source", "data" if stage == "reward_model" else "drawn")
        return can_learn_from(stage, self.judged.train) if source == "auto" else source == "data"

    def needs(self, stage: str, sources: tuple[Source, ...] = ()) -> tuple[str, ...]:
        """The folders that a stage is made from; without the reward model where nothing asks it for a score.

        `sources` are the parts of the reward; () for the run's reward model.
        """
        scored = stage != "reward_model" and (not sources or uses_model(sources)) and not self.reads_judgements(stage)
        return tuple(need for need in needs_of(stage) if scored or need != "reward_model")

    def inputs(self, stage: str, sources: tuple[Source, ...] = ()) -> dict[str, Any]:
        """Everything that a stage's result depends on, and its fingerprint, without settings that change no result.

        `sources` are the parts of the reward that a policy is trained for; () for the run's reward model.
        """
        config = dataclasses.asdict(self.resolved(self.config))
        general = {k: v for k, v in config.items() if not isinstance(v, dict)}
        settings = general | flatten({stage: config[stage]}) | {"device": self.device.type}
        settings["data.special_tokens"] = self.config.data.special_tokens
        needs = self.needs(stage, sources)
        sources = () if self.reads_judgements(stage) else sources  # nothing is scored
        content: dict[str, Any] = {
            "settings": {k: v for k, v in settings.items() if k.rpartition(".")[2] not in NO_RESULT},
            "data": (self.judged if self.reads_judgements(stage) else self.data).fingerprint,
            "inputs": {need: (self.made_from(need) or self.inputs(need))["fingerprint"] for need in needs},
        }
        content |= {} if needs else {"model": loading.fingerprint(self.config.model)}
        content |= {"reward": described(sources)} if described(sources) else {}
        files = {"reward_files": files_of(sources)} if described(sources) else {}
        return content | {"fingerprint": _fingerprint(content), "made_with": made_with(self.config.sharding)} | files

    def made_from(self, stage: str) -> dict[str, Any] | None:
        """The `inputs` that a folder was made from; None if it has no inputs.json."""
        path = self.folder(stage) / _INPUTS_FILE
        if not path.exists():
            return None
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            same = _fingerprint({k: v for k, v in made.items() if k not in _NOT_HASHED})
            if made["fingerprint"] == same and isinstance(made["made_with"], dict):
                return made
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise RunError(f"{path}: damaged; put it back, or start the stage again with --overwrite")

    def differences(self, stages: tuple[str, ...]) -> list[str]:
        """Versions, thread counts and rewards that have changed since unfinished stages were begun: a sentence each."""
        found, now = [], made_with(self.config.sharding)
        for stage in stages:
            made = self.made_from(stage) if stage in ALGORITHMS and not self.complete(stage) else None
            for name, value in (made or {}).get("made_with", {}).items():
                if now.get(name) != value:
                    found.append(f"{stage} was begun with {name} {value}, now {now.get(name)}: last digits may differ")
            files = (made or {}).get("reward_files", {})
            for title, content in files_of(sources_of(None, self.config.reward) if files else ()).items():
                if files.get(title, content) != content:
                    found.append(f"{stage} was begun with another '{title}'; from here on the new one scores")
        return found

    def check_inputs(self, stage: str) -> None:
        """Raise a RunError if a stage's folder was made from other settings, other inputs or other data."""
        if (made := self.made_from(stage)) is None:
            return
        now, begins = self.inputs(stage), f"{self.path}: its {stage} was made"
        for name, value in now["settings"].items():
            if (before := made["settings"].get(name, value)) != value:
                raise RunError(f"{begins} with {name} = {before!r}, not {value!r}; keep that value, {_REMEDY}")
        if made["data"] != now["data"]:
            name = self.judged.name if self.reads_judgements(stage) else self.config.data.name
            raise RunError(f"{begins} from other data: {name} has changed; {_REMEDY}")
        if made.get("model") != now.get("model"):
            raise RunError(f"{begins} from other weights: {self.config.model} has changed; {_REMEDY}")
        for name, fingerprint in made["inputs"].items():
            if fingerprint != now["inputs"][name]:
                raise RunError(f"{begins} from another {name}; {_REMEDY}")
        if self.config.reward:  # otherwise it may be a function that a Python program gives
            self.check_reward(stage, sources_of(None, self.config.reward))

    def check_reward(self, stage: str, sources: tuple[Source, ...]) -> None:
        """Raise a RunError if a policy was trained for another reward."""
        made = self.made_from(stage) if "reward_model" in needs_of(stage) else None
        rewards = (made or {}).get("reward", ""), described(sources)
        if made is not None and rewards[0] != rewards[1]:
            before, now = (f"the reward '{reward}'" if reward else "the reward model" for reward in rewards)
            raise RunError(f"{self.path}: its {stage} was trained for {before}, not for {now}; {_REMEDY}")

    def checkpoints(self, stage: str, sources: tuple[Source, ...] = ()) -> Checkpoints:
        """The stage's checkpoints, valid for its present inputs only; writes these inputs to inputs.json."""
        inputs = self.inputs(stage, sources)
        self.folder(stage).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(stage) / _INPUTS_FILE, inputs)
        return Checkpoints(self.folder(stage) / "checkpoints", inputs["fingerprint"], self.log(stage))

    @property
    def device(self) -> torch.device:
        """Where to compute: as set, or a GPU if there is one."""
        return device_named(self.config.device)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the matrix products: as set, or bfloat16 if the device multiplies it in hardware."""
        if self.config.dtype == "auto":
            return torch.bfloat16 if multiplies_bfloat16(self.device) else torch.float32
        return getattr(torch, self.config.dtype)

    def resolved(self, config: Config) -> Config:
        """These settings, with this run's number format for dtype = "auto"."""
        if config.dtype != "auto":
            return config
        return dataclasses.replace(config, dtype=str(self.dtype).removeprefix("torch."))


def files_of(sources: tuple[Source, ...]) -> dict[str, str]:
    """The hash of each part of a reward that has a file or a folder, by its title."""
    found = {}
    for source in sources:
        if source.file is not None:
            found[source.title] = sha256(source.file)
        elif source.function is None and not source.is_model:
            found[source.title] = " ".join(map(loading.fingerprint, members_of(source.classifier[0])))
    return found


def _fingerprint(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
