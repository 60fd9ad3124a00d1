"""The run directory: a graph of folders, each with the settings, inputs and data that it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from plaudit import __version__
from plaudit.config import ALGORITHMS, Config, build, flatten, read_toml, to_toml
from plaudit.data.corpus import load
from plaudit.data.splits import Splits
from plaudit.errors import ConfigError, RunError
from plaudit.training.checkpoint import Checkpoints
from plaudit.training.metrics import MetricsLog

STAGES = ("sft", "reward_model", "ppo", "evaluation")  # of `plaudit run`
MEMORY_FILE = "memory.json"  # bytes: predicted, and measured; they depend on the machine and differ from run to run
_INPUTS_FILE = "inputs.json"
_EVALUATION_FILES = ("evaluation.json", "responses.jsonl", "samples.jsonl", "report.html", "frontier.json")


@dataclass(frozen=True)
class Run:
    """An open run directory and its settings."""

    path: Path
    config: Config  # as config.toml has it: with the number format that dtype = "auto" resolved to

    @staticmethod
    def open(path: Path, config: Config, *, resume: bool, overwrite: bool, stages: tuple[str, ...]) -> Run:
        """Make `path` ready for `stages`, or leave it untouched and say why not.

        Args:
            resume: continue what these stages have begun.
            overwrite: remove what these stages, and the stages made from theirs, have left.
        """
        saved = path / "config.toml"
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file; --out takes a folder")
        known = (*ALGORITHMS, *_EVALUATION_FILES, "frontier", saved.name, "doctor.json", MEMORY_FILE)
        unknown = [p.name for p in path.glob("*") if p.name not in known]
        if unknown and not saved.exists():
            raise RunError(f"{path}: holds '{unknown[0]}' and no run; choose an empty or a new folder")
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
        before = Run(path, build(read_toml(saved)) if kept else config)
        run = Run(path, before.resolved(config))  # what is kept was computed so, on whatever machine that was
        for stage in kept:
            run.check_inputs(stage)
        for stage in removed:
            _remove(path, stage)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be made: {error.strerror}") from None
        if not (kept and before.config == run.config):  # otherwise its versions are those that made what is kept
            _remove(path, "evaluation")
            saved.write_text(to_toml(run.config, versions()), encoding="utf-8")
        return run

    @staticmethod
    def existing(path: Path) -> Run:
        """The run directory at `path`, to read from."""
        if not (path / "config.toml").exists():
            raise RunError(f"{path}: no run here (config.toml is missing); make one with plaudit run --out {path}")
        return Run(path, build(read_toml(path / "config.toml")))

    def branch(self, path: Path, config: Config, stages: tuple[str, ...], *, overwrite: bool = False) -> Run:
        """A run directory at `path` with other settings for what follows `stages`, whose folders it shares.

        They are hard links, so they take no room. A run at `path` is used as it is, unless it is to be overwritten.
        """
        config = self.resolved(config)
        for stage in stages:
            self.model(stage)
        if path.exists() and not (path / "config.toml").exists():
            raise RunError(f"{path}: holds no run; choose a new folder")
        if overwrite and path.exists():
            shutil.rmtree(path)
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            for stage in stages:
                ignore = shutil.ignore_patterns("checkpoints")
                shutil.copytree(self.folder(stage), partial / stage, copy_function=_link, ignore=ignore)
            (partial / "config.toml").write_text(to_toml(config, versions()), encoding="utf-8")
            partial.rename(path)
        return Run(path, config)

    def folder(self, stage: str) -> Path:
        """The folder of a stage's model, metrics and checkpoints."""
        return self.path / stage

    def model(self, stage: str) -> str:
        """The folder of the finished model of a stage; a RunError if it has not finished."""
        if not self.complete(stage):
            command = stage.replace("_", "-")
            raise RunError(f"{self.path}: no finished {stage} here; run: plaudit {command} --out {self.path}")
        return str(self.folder(stage))

    def complete(self, stage: str) -> bool:
        """Whether the stage has finished."""
        return (self.path / "report.html" if stage == "evaluation" else self.folder(stage) / "summary.json").exists()

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        """Write the stage's figures; their presence says that the stage is complete."""
        write_json(self.folder(stage) / "summary.json", summary)

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

    def inputs(self, stage: str, reward: str = "") -> dict[str, Any]:
        """What a stage's result depends on, and the fingerprint of it all.

        `reward` names what takes the place of the run's reward model. The engine is left out: all compute the same.
        """
        config = dataclasses.asdict(self.resolved(self.config))
        general = {k: v for k, v in config.items() if not isinstance(v, dict) and k != "engine"}
        needs = [need for need in needs_of(stage) if not (reward and need == "reward_model")]
        content: dict[str, Any] = {
            "settings": general | flatten({stage: config[stage]}) | {"device": self.device.type},
            "data": self.data.fingerprint,
            "inputs": {need: (self.made_from(need) or self.inputs(need))["fingerprint"] for need in needs},
        }
        if reward:
            content["reward"] = reward
        text = json.dumps(content, sort_keys=True)
        return content | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}

    def made_from(self, stage: str) -> dict[str, Any] | None:
        """The `inputs` that a folder was made from; None where they are not known, as of a folder from elsewhere."""
        path = self.folder(stage) / _INPUTS_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def check_inputs(self, stage: str) -> None:
        """Refuse a folder that was made from other settings, other inputs or other data, with a RunError."""
        made = self.made_from(stage)
        if made is None:
            return
        now, begins = self.inputs(stage, made.get("reward", "")), f"{self.path}: its {stage} was made"
        remedy = "choose another --out, or use --overwrite"
        for name, value in now["settings"].items():
            if (before := made["settings"].get(name, value)) != value:
                raise RunError(f"{begins} with {name} = {before!r}, not {value!r}; keep that value, {remedy}")
        if made["data"] != now["data"]:
            raise RunError(f"{begins} from other data: {self.config.data} has changed; {remedy}")
        for name, fingerprint in made["inputs"].items():
            if fingerprint != now["inputs"][name]:
                raise RunError(f"{begins} from another {name}; {remedy}")

    def checkpoints(self, stage: str, reward: str = "") -> Checkpoints:
        """The stage's checkpoints, which are refused when its inputs differ; leaves the inputs in the folder."""
        inputs = self.inputs(stage, reward)
        self.folder(stage).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(stage) / _INPUTS_FILE, inputs)
        return Checkpoints(self.folder(stage) / "checkpoints", inputs["fingerprint"])

    @property
    def device(self) -> torch.device:
        """Where to compute: as set, or the first GPU if there is one."""
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        usable = [name for name, there in present.items() if there]
        wanted = usable[0] if self.config.device == "auto" else self.config.device
        if wanted not in usable:
            raise ConfigError(f"device = '{wanted}': this machine has no such device; use cpu or auto")
        return torch.device(wanted)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the matrix products: as set, or bfloat16 if the device multiplies it in hardware."""
        if self.config.dtype == "auto":
            return torch.bfloat16 if _multiplies_bfloat16(self.device) else torch.float32
        return getattr(torch, self.config.dtype)

    def resolved(self, config: Config) -> Config:
        """These settings, with this run's number format for dtype = "auto"."""
        if config.dtype != "auto":
            return config
        return dataclasses.replace(config, dtype=str(self.dtype).removeprefix("torch."))


def needs_of(stage: str) -> tuple[str, ...]:
    """The folders that a stage is made from, as its module declares them."""
    return import_module(f"plaudit.{'evaluation.evaluate' if stage == 'evaluation' else f'algorithms.{stage}'}").NEEDS


def ancestors(stage: str) -> set[str]:
    """Every stage that `stage` is made from, directly or not."""
    direct = set(needs_of(stage))
    return direct.union(*(ancestors(need) for need in direct))


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware; without it they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return False
    supported = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return any(check and check() for check in supported)


def write_json(path: Path, content: Any) -> None:
    """Write to a file beside `path`, then rename it, so that nobody reads half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def versions() -> dict[str, str]:
    """plaudit's version and revision, Python's version, and those of the libraries that decide the figures."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")}
    return {"plaudit": __version__, "revision": revision, "python": platform.python_version(), **libraries}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _remove(path: Path, stage: str) -> None:
    if stage == "evaluation":
        for name in _EVALUATION_FILES:
            (path / name).unlink(missing_ok=True)
    else:
        shutil.rmtree(path / stage, ignore_errors=True)
        shutil.rmtree(path / "frontier", ignore_errors=True)  # measured with this model
