"""The run directory: it holds everything, and is all that joins the stages, but for what they can make anew."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from plaudit import __version__
from plaudit.config import SECTIONS, Config, build, flatten, read_toml, to_toml
from plaudit.errors import ConfigError, RunError
from plaudit.training.checkpoint import Checkpoints
from plaudit.training.metrics import MetricsLog

STAGES = ("sft", "reward_model", "ppo", "evaluation")
MEMORY_FILE = "memory.json"  # bytes: predicted, and measured; they are the machine's, and differ from run to run
_FOLDERS = {stage: stage for stage in ("sft", "reward_model", "ppo")}
_EVALUATION_FILES = ("evaluation.json", "responses.jsonl", "samples.jsonl", "report.html", "frontier.json")


@dataclass(frozen=True)
class Run:
    """An open run directory and the settings that made it.

    Attributes:
        path: the directory.
        config: its settings, as config.toml keeps them: with the number format that dtype = "auto" came to.
        memo: what a stage leaves in memory for the next one; that makes it anew where it is not there.
    """

    path: Path
    config: Config
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def open(path: Path, config: Config, *, resume: bool, overwrite: bool, stages: tuple[str, ...]) -> Run:
        """Make `path` ready for `stages`, or leave it untouched and say why not.

        Args:
            resume: go on with what these stages have begun.
            overwrite: remove what these stages, and the stages that build on them, have left.

        Raises:
            RunError: something is in the way, or was made with other settings.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file; --out takes a folder")
        known = (*_FOLDERS.values(), *_EVALUATION_FILES, "frontier", "config.toml", "doctor.json", MEMORY_FILE)
        strangers = [p.name for p in path.iterdir() if p.name not in known] if path.exists() else []
        if strangers and not (path / "config.toml").exists():
            raise RunError(f"{path}: holds '{strangers[0]}' and no run; choose an empty or a new folder")
        doomed = STAGES[min(STAGES.index(s) for s in stages) :] if overwrite else ()
        full = [s for s in stages if s != "evaluation" and _begun(path, s)]
        if full and not resume and not overwrite:
            raise RunError(
                f"{path}: already holds {', '.join(full)}; use --resume to go on, or --overwrite to begin anew"
            )
        kept = [s for s in STAGES if s not in doomed and s != "evaluation" and _begun(path, s)]
        saved = path / "config.toml"
        begun = Run(path, build(read_toml(saved)) if kept and saved.exists() else config)
        config = begun.settled(config)  # what is kept was computed so, on whatever machine that was
        _check_unchanged(path, config, kept)
        for stage in doomed:
            _remove(path, stage)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be made: {error.strerror}") from None
        if not (kept and build(read_toml(saved)) == config):  # its versions are those that made what is kept
            _remove(path, "evaluation")  # made with other settings, or of other models
            saved.write_text(to_toml(config, versions()), encoding="utf-8")
        return Run(path, config)

    @staticmethod
    def existing(path: Path) -> Run:
        """A run directory to read from.

        Raises:
            RunError: there is none at `path`.
        """
        if not (path / "config.toml").exists():
            raise RunError(f"{path}: no run here (config.toml is missing); make one with plaudit run --out {path}")
        return Run(path, build(read_toml(path / "config.toml")))

    def branch(self, path: Path, config: Config, *, overwrite: bool = False) -> Run:
        """A run directory of its own at `path`, for PPO with other settings on the same SFT and reward model.

        The two are hard links: whole, and free. What is at `path` already is taken as it is.

        Args:
            overwrite: remove what is there and begin anew.

        Raises:
            RunError: a stage that PPO builds on has not finished, or `path` holds something that is no run.
        """
        config, earlier = self.settled(config), ("sft", "reward_model")
        for stage in earlier:
            self.model(stage)
        if path.exists() and not (path / "config.toml").exists():
            raise RunError(f"{path}: holds no run; choose a new folder")
        if overwrite and path.exists():
            shutil.rmtree(path)
        if not path.exists():
            aside = path.with_name(f".{path.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            for stage in earlier:
                ignore = shutil.ignore_patterns("checkpoints")
                shutil.copytree(self.folder(stage), aside / _FOLDERS[stage], copy_function=_link, ignore=ignore)
            (aside / "config.toml").write_text(to_toml(config, versions()), encoding="utf-8")
            aside.rename(path)
        return Run(path, config)

    def folder(self, stage: str) -> Path:
        """Where the stage's model, metrics and checkpoints lie."""
        return self.path / _FOLDERS[stage]

    def model(self, stage: str) -> str:
        """The finished model of a stage.

        Raises:
            RunError: the stage has not finished.
        """
        if not self.complete(stage):
            raise RunError(f"{self.path}: no finished {stage} model here; run: plaudit {stage} --out {self.path}")
        return str(self.folder(stage))

    def complete(self, stage: str) -> bool:
        """Whether the stage has finished."""
        if stage == "evaluation":
            return (self.path / "report.html").exists()
        return (self.folder(stage) / "summary.json").exists()

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        """Write the stage's figures; their presence says that it is complete."""
        write_json(self.folder(stage) / "summary.json", summary)

    def summary(self, stage: str) -> dict[str, Any]:
        """The figures that `finish` wrote."""
        self.model(stage)
        return json.loads((self.folder(stage) / "summary.json").read_text(encoding="utf-8"))

    def log(self, stage: str) -> MetricsLog:
        """The stage's metrics files."""
        return MetricsLog(self.folder(stage))

    def checkpoints(self, stage: str) -> Checkpoints:
        """The stage's checkpoints, refused when the settings differ."""
        settings = _settings_of(flatten(dataclasses.asdict(self.config)), stage)
        settings |= {"device": str(self.device), "dtype": str(self.dtype)}  # what "auto" comes to
        fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return Checkpoints(self.folder(stage) / "checkpoints", fingerprint)

    @property
    def device(self) -> torch.device:
        """Where to compute: as set, or the first GPU if there is one."""
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device = 'cuda': this machine has no usable GPU; use cpu or auto")
        cuda = self.config.device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the forward pass: as set, or bfloat16 if the device multiplies it in hardware."""
        if self.config.dtype == "auto":
            return torch.bfloat16 if _multiplies_bfloat16(self.device) else torch.float32
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.config.dtype]

    def settled(self, config: Config) -> Config:
        """These settings, with this run's number format for dtype = "auto"."""
        name = str(self.dtype).removeprefix("torch.")
        return dataclasses.replace(config, dtype=name) if config.dtype == "auto" else config

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which every forward pass of this run happens; weights stay float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware; those without are slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return any(ask and ask() for ask in asked)


def write_json(path: Path, content: Any) -> None:
    """Write through a sibling file and a rename, so that nobody ever reads half of it."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def versions() -> dict[str, str]:
    """What ran: our version and revision, Python's, and those of the libraries that decide the figures."""
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


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _begun(path: Path, stage: str) -> bool:
    folder = path / _FOLDERS[stage]
    return folder.exists() and any(folder.iterdir())


def _settings_of(flat: dict[str, Any], stage: str) -> dict[str, Any]:
    """The settings that a stage's result depends on: the general ones, and those of its own and earlier stages."""
    earlier = SECTIONS[: SECTIONS.index(stage) + 1]
    return {n: v for n, v in flat.items() if "." not in n or n.partition(".")[0] in earlier}


def _check_unchanged(path: Path, config: Config, kept: list[str]) -> None:
    if not kept:
        return
    if not (path / "config.toml").exists():
        raise RunError(f"{path}: config.toml is missing, so what made its models is unknown; use --overwrite")
    saved = flatten(dataclasses.asdict(build(read_toml(path / "config.toml"))))
    asked = flatten(dataclasses.asdict(config))
    for stage in kept:
        before, now = _settings_of(saved, stage), _settings_of(asked, stage)
        for name in before:
            if before[name] != now[name]:
                raise RunError(
                    f"{path}: its {stage} was made with {name} = {before[name]!r}, not {now[name]!r}; "
                    "keep that value, choose another --out, or use --overwrite"
                )


def _remove(path: Path, stage: str) -> None:
    if stage == "evaluation":
        for name in _EVALUATION_FILES:
            (path / name).unlink(missing_ok=True)
    else:
        shutil.rmtree(path / _FOLDERS[stage], ignore_errors=True)
        shutil.rmtree(path / "frontier", ignore_errors=True)  # measured with this model
