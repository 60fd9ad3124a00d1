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
INPUTS_FILE = "inputs.json"
_EVALUATION_FILES = ("evaluation.json", "responses.jsonl", "samples.jsonl", "report.html", "frontier.json")


@dataclass(frozen=True)
class Run:
    """An open run directory and its settings.

    Attributes:
        path: the directory.
        config: its settings, as config.toml has them: with the number format that dtype = "auto" resolved to.
    """

    path: Path
    config: Config

    @staticmethod
    def open(path: Path, config: Config, *, resume: bool, overwrite: bool, stages: tuple[str, ...]) -> Run:
        """Make `path` ready for `stages`, or leave it untouched and say why not.

        Args:
            resume: continue what these stages have begun.
            overwrite: remove what these stages, and the stages made from theirs, have left.

        Raises:
            RunError: a folder exists already, or was made with other settings or data.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file; --out takes a folder")
        known = (*ALGORITHMS, *_EVALUATION_FILES, "frontier", "config.toml", "doctor.json", MEMORY_FILE)
        unknown = [p.name for p in path.iterdir() if p.name not in known] if path.exists() else []
        if unknown and not (path / "config.toml").exists():
            raise RunError(f"{path}: holds '{unknown[0]}' and no run; choose an empty or a new folder")
        removed = {s for s in (*ALGORITHMS, "evaluation") if ancestors(s) & set(stages)} | set(stages)
        removed = removed if overwrite else set()
        begun = [s for s in ALGORITHMS if _begun(path, s)]
        existing = [s for s in stages if s in begun]
        if existing and not resume and not overwrite:
            raise RunError(
                f"{path}: already holds {', '.join(existing)}; use --resume to continue, or --overwrite to start again"
            )
        kept = [s for s in begun if s not in removed]
        saved = path / "config.toml"
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
        """A run directory to read from.

        Raises:
            RunError: there is none at `path`.
        """
        if not (path / "config.toml").exists():
            raise RunError(f"{path}: no run here (config.toml is missing); make one with plaudit run --out {path}")
        return Run(path, build(read_toml(path / "config.toml")))

    def branch(self, path: Path, config: Config, stages: tuple[str, ...], *, overwrite: bool = False) -> Run:
        """A run directory at `path` with other settings for what follows `stages`, whose folders it shares.

        They are hard links, so they are complete and take no room. What is at `path` already is used as it is.

        Args:
            overwrite: remove what is there and start again.

        Raises:
            RunError: one of `stages` has not finished, or `path` holds something that is no run.
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
        """The folder of the finished model of a stage.

        Raises:
            RunError: the stage has not finished.
        """
        if not self.complete(stage):
            command = stage.replace("_", "-")
            raise RunError(f"{self.path}: no finished {stage} here; run: plaudit {command} --out {self.path}")
        return str(self.folder(stage))

    def complete(self, stage: str) -> bool:
        """Whether the stage has finished."""
        if stage == "evaluation":
            return (self.path / "report.html").exists()
        return (self.folder(stage) / "summary.json").exists()

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        """Write the stage's figures; their presence says that the stage is complete."""
        write_json(self.folder(stage) / "summary.json", summary)

    def summary(self, stage: str) -> dict[str, Any]:
        """The figures that `finish` wrote."""
        self.model(stage)
        return json.loads((self.folder(stage) / "summary.json").read_text(encoding="utf-8"))

    def log(self, stage: str) -> MetricsLog:
        """The stage's metrics files."""
        return MetricsLog(self.folder(stage))

    @property
    def data(self) -> Splits:
        """The data set."""
        return load(self.config.data)

    def inputs(self, stage: str, *, needs: tuple[str, ...] | None = None, reward: str = "") -> dict[str, Any]:
        """What a stage's result depends on, and the fingerprint of it all.

        Args:
            needs: folders that it is made from; None for the algorithm's NEEDS.
            reward: the name of a reward that is not a model of this run.
        """
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if not isinstance(v, dict)}
        settings |= flatten({stage: dataclasses.asdict(getattr(self.config, stage))})
        content: dict[str, Any] = {
            # What "auto" resolves to, by the names of the settings.
            "settings": settings | {"device": self.device.type, "dtype": _name(self.dtype)},
            "data": self.data.fingerprint,
            "inputs": {need: self._fingerprint(need) for need in (needs_of(stage) if needs is None else needs)},
        }
        if reward:
            content["reward"] = reward
        text = json.dumps(content, sort_keys=True)
        return content | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}

    def _fingerprint(self, stage: str) -> str:
        """The fingerprint that a folder was made with; of these settings where it does not exist yet."""
        path = self.folder(stage) / INPUTS_FILE
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else self.inputs(stage)
        return content["fingerprint"]

    def check_inputs(self, stage: str) -> None:
        """Refuse a folder that was made from other settings, other inputs or other data.

        Raises:
            RunError: it was.
        """
        path = self.folder(stage) / INPUTS_FILE
        if not path.exists():
            return
        made = json.loads(path.read_text(encoding="utf-8"))
        now = self.inputs(stage, needs=tuple(made["inputs"]), reward=made.get("reward", ""))
        remedy = "choose another --out, or use --overwrite"
        for name, value in made["settings"].items():
            if value != now["settings"].get(name):
                raise RunError(
                    f"{self.path}: its {stage} was made with {name} = {value!r}, not {now['settings'].get(name)!r}; "
                    f"keep that value, {remedy}"
                )
        if made["data"] != now["data"]:
            raise RunError(
                f"{self.path}: its {stage} was made from other data: {self.config.data} has changed; {remedy}"
            )
        for name, fingerprint in made["inputs"].items():
            if fingerprint != now["inputs"][name]:
                raise RunError(f"{self.path}: its {stage} was made from another {name}; {remedy}")

    def checkpoints(self, stage: str, *, needs: tuple[str, ...] | None = None, reward: str = "") -> Checkpoints:
        """The stage's checkpoints, which are refused when its inputs differ; leaves the inputs in the folder.

        Args:
            needs, reward: as in `inputs`.
        """
        inputs = self.inputs(stage, needs=needs, reward=reward)
        self.folder(stage).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(stage) / INPUTS_FILE, inputs)
        return Checkpoints(self.folder(stage) / "checkpoints", inputs["fingerprint"])

    @property
    def device(self) -> torch.device:
        """Where to compute: as set, or the first GPU if there is one."""
        wanted = self.config.device
        usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if wanted != "auto":
            if not usable[wanted]:
                raise ConfigError(f"device = '{wanted}': this machine has no such device; use cpu or auto")
            return torch.device(wanted)
        return torch.device(next(name for name, there in usable.items() if there))

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the matrix products: as set, or bfloat16 if the device multiplies it in hardware."""
        if self.config.dtype == "auto":
            return torch.bfloat16 if _multiplies_bfloat16(self.device) else torch.float32
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.config.dtype]

    def resolved(self, config: Config) -> Config:
        """These settings, with this run's number format for dtype = "auto"."""
        return dataclasses.replace(config, dtype=_name(self.dtype)) if config.dtype == "auto" else config


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
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    libraries = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")
    return {
        "plaudit": __version__,
        "revision": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _begun(path: Path, stage: str) -> bool:
    folder = path / stage
    return folder.exists() and any(folder.iterdir())


def _remove(path: Path, stage: str) -> None:
    if stage == "evaluation":
        for name in _EVALUATION_FILES:
            (path / name).unlink(missing_ok=True)
    else:
        shutil.rmtree(path / stage, ignore_errors=True)
        shutil.rmtree(path / "frontier", ignore_errors=True)  # measured with this model
