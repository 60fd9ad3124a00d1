"""Which two models answer, and with which settings, by what the run directory says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from plaudit.chat.session import Sampling
from plaudit.config import ALGORITHMS, POLICIES, read_saved, resolve
from plaudit.errors import RunError

BASE = "model"  # stands for the base model of a run, which has no folder there
POLICY = "policy"  # stands for the policy that the run is about


def finished(run: Path, stage: str) -> bool:
    """Whether a stage of the run has finished."""
    return (run / stage / "summary.json").exists()


def chosen(run: Path, names: Sequence[str] | None = None) -> tuple[str, str]:
    """The models of these names; by default SFT (or the base model) and the policy, or the base model and SFT.

    Raises:
        RunError: there is no run, or a model that has not been trained is asked for.
    """
    if not (run / "config.toml").exists():
        make = f"plaudit run --out {shlex.quote(str(run))}"
        raise RunError(f"{run}: no run here (config.toml is missing); make one with {make}")
    policy = next((stage for stage in POLICIES if finished(run, stage)), None)
    if names is None:
        before = "sft" if finished(run, "sft") else BASE
        if policy is None and before == BASE:
            raise RunError(
                f"{run}: no finished model here to compare with the base model; run: plaudit sft --out {run}, or name "
                "two with --models"
            )
        names = (before, policy) if policy is not None else (BASE, before)
    stages = {name.replace("_", "-"): name for name in ALGORITHMS}  # as commands spell them
    found = [policy or "ppo" if name == POLICY else stages.get(name, name) for name in names]
    for name in found:
        if name in ALGORITHMS and not finished(run, name):
            command = f"plaudit {name.replace('_', '-')} --out {shlex.quote(str(run))}"
            raise RunError(f"{run}: no finished {name} here; run: {command}")
        if name == "reward_model":
            raise RunError(f"{run}: its reward_model gives scores and writes nothing; name another model in --models")
    return found[0], found[1]


def settings_of(run: Path, names: Sequence[str]) -> str:
    """The policy whose settings count: the one that answers, or the one that the run is about."""
    candidates = (*(name for name in names[::-1] if name in POLICIES), *(s for s in POLICIES if finished(run, s)))
    return next(iter(candidates), "ppo")


def defaults(run: Path, names: Sequence[str]) -> Sampling:
    """The sampling settings of the run, with one answer of each model.

    Raises:
        PlauditError: config.toml is damaged, or of another version.
    """
    settings = resolve(read_saved(run / "config.toml"))
    stage = settings_of(run, names)
    return Sampling(settings[f"{stage}.temperature"], settings["seed"], settings[f"{stage}.max_new_tokens"], 1)
