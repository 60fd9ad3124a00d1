"""Methods side by side: each trained from the same SFT model, for the same reward, on as many responses.

    RUN/methods/
      config.toml                  the settings that everything below was made with
      best-of-n-64.safetensors     figures of 64 responses of SFT to each held-out prompt
      sft.safetensors              figures of the SFT model's own answers
      ppo-1/                       a run directory: PPO with the first seed
      ppo-1/points/                figures of its policies during training
      ppo-1/seconds.json           how long it has been trained
    RUN/methods.json               the figures; drawn in report.html
    RUN/methods.csv                those at the end of training
    RUN/methods-at-kl.csv          those at equal KL

A part that exists is used as it is, so that the command continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from safetensors.numpy import load_file

from plaudit.config import POLICIES, Config, build, nearest, read_saved, to_toml
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.comparison import Trained, compared, table, table_at_kl
from plaudit.evaluation.evaluate import Measurement
from plaudit.evaluation.metrics import strict
from plaudit.evaluation.points import best_of_n, draw, measured, save, train_and_measure
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.methods import findings
from plaudit.files import write_atomic, write_json
from plaudit.rewards import REWARD_MODEL, AnyReward, described
from plaudit.settings import SamplingConfig
from plaudit.training.metrics import StepReport
from plaudit.training.rewards import needs_reward_model, run_sources
from plaudit.training.rollouts import ScoreScale
from plaudit.training.run import Run
from plaudit.training.versions import versions

CONTROL = "random-of-n"  # best_of_n, which learns from any response of a group
METHODS = (*POLICIES, CONTROL)
_SECONDS = "seconds.json"
_GROWTH = 1.6  # from one policy that is measured to the next: steps 1, 2, 3, 4, 7, 10, 17, ... and the last one


def methods(
    run: Run,
    names: Sequence[str],
    seeds: int,
    budget: int,
    draws: int = 64,
    *,
    overwrite: bool = False,
    reward: AnyReward = None,
) -> Iterator[StepReport]:
    """Train each method with several seeds, and compare them; writes RUN/methods.json and tables, updates the report.

    Args:
        names: of METHODS; the others are compared with the first.
        seeds: how many, the run's own being the first.
        budget: responses that a method samples in training.
        draws: responses of SFT to each held-out prompt; best-of-n is measured for n up to it.
        reward: as in `ppo`.

    Raises:
        ConfigError: there is no such method, or the budget is smaller than a batch.
        RunError: the SFT or reward model is missing, or the comparison was begun with other settings.
    """
    names = parse(names)
    configs = {(name, seed): config_of(run.config, name, run.config.seed + seed, budget)
               for name in names for seed in range(seeds)}  # fmt: skip
    folder = run.path / "methods"
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "config.toml").exists() and build(read_saved(folder / "config.toml")) != run.config:
        raise RunError(f"{folder}: was begun with other settings of the run; use --overwrite to start again")
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "config.toml", to_toml(run.config, versions()))

    plain = dataclasses.replace(run.config, ppo=dataclasses.replace(run.config.ppo, lora_rank=0))
    seen = {config.seed for config in configs.values()}
    measurement = Measurement(Run(run.path, plain), "ppo", reward, policy="sft", seeds=seen)
    own = folder / "sft.safetensors"
    if not own.exists():
        save(measured(measurement, measurement.sft), own)
    trained = []
    for (name, _), config in configs.items():
        path = folder / f"{name}-{config.seed}"
        yield from _train(measurement, config, name, path, reward)
        points = {int(file.stem): load_file(file) for file in (path / "points").glob("*.safetensors")}
        spent = _seconds(path)
        trained.append(Trained(name, config.seed, {0: load_file(own)} | points, spent))
    drawn = folder / f"best-of-n-{draws}.safetensors"
    if not drawn.exists():
        first = Run(folder / f"{names[0]}-{run.config.seed}", configs[names[0], 0])
        yield from draw(measurement, draws, ScoreScale(**first.summary(stage_of(names[0]))["scale"]), drawn)

    judge, reason = measurement.judge
    content = compared(trained, best_of_n(load_file(drawn)), run.config.seed)
    content["meta"] = {
        "budget": budget,
        "draws": draws,
        "prompts": len(measurement.held_out[1]),
        "reward": described(run_sources(run, reward)) or REWARD_MODEL,
        "judge": judge and judge.meta,
        "no_judge": reason,
    }
    content["findings"] = findings(content)
    write_json(run.path / "methods.json", strict(content))
    write_atomic(run.path / "methods.csv", table(content["methods"]))
    write_atomic(run.path / "methods-at-kl.csv", table_at_kl(content["at_kl"]))
    write_report(run.path)


def parse(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of these names, which may have hyphens, each once.

    Raises:
        ConfigError: there is no such method, or none is named.
    """
    known = {name.replace("_", "-"): name for name in METHODS}
    names = [name.strip() for name in names]
    for name in names:
        if name.replace("_", "-") not in known:
            raise ConfigError(f"no method '{name}'{nearest(name, list(known))}; the methods are {', '.join(known)}")
    if not names:
        raise ConfigError(f"name at least one method: {', '.join(known)}")
    return tuple(dict.fromkeys(known[name.replace("_", "-")] for name in names))


def stage_of(method: str) -> str:
    """The algorithm of a method."""
    return "best_of_n" if method == CONTROL else method


def config_of(config: Config, method: str, seed: int, budget: int) -> Config:
    """The settings of a run for a method: sampled as PPO samples, and with `budget` responses.

    Raises:
        ConfigError: the budget is smaller than a batch or a group.
    """
    stage = stage_of(method)
    settings = getattr(config, stage)
    sampling = {f.name: getattr(config.ppo, f.name) for f in fields(SamplingConfig)}
    offline = hasattr(settings, "responses")
    smallest = settings.group_size if offline else settings.batch_size
    if budget < smallest:
        what = "group_size" if offline else "batch_size"
        raise ConfigError(f"a budget of {budget} responses is less than {stage}.{what} = {smallest}")
    if offline:
        groups = budget // settings.group_size
        records = budget if stage == "kto" else groups
        steps = -(-records // settings.batch_size) * settings.epochs
        changes = {"responses": groups * settings.group_size, "save_every": steps}
        changes |= (
            {"source": "drawn"} if hasattr(settings, "source") else {"keep": "random" if method == CONTROL else "best"}
        )
    else:
        iterations = budget // settings.batch_size
        changes = {"iterations": iterations, "save_every": iterations}
    changed = dataclasses.replace(settings, **sampling, **changes)
    return dataclasses.replace(config, seed=seed, keep_checkpoints=0, **{stage: changed})


def _train(
    measurement: Measurement, config: Config, method: str, path: Path, reward: AnyReward
) -> Iterator[StepReport]:
    """Train a method in a branch of the run. Its seconds are those of sampling and training, without measuring.

    A policy moves fastest at first, so it is measured often then, and seldom later.
    """
    run, stage = measurement.run, stage_of(method)
    sub = run.branch(path, config, ("sft", "reward_model") if needs_reward_model(run, reward) else ("sft",))
    if sub.config != sub.resolved(config) or build(read_saved(path / "config.toml")) != sub.config:
        raise RunError(f"{path}: was begun with another budget or other settings; use --overwrite to start again")
    sub = dataclasses.replace(sub, saved_after={round(_GROWTH**power) for power in range(40)})
    file, spent = path / _SECONDS, _seconds(path)
    began: float | None = time.perf_counter()
    for report in train_and_measure(measurement, sub, stage, path.name, reward):
        # Before the first step, models are opened, and responses drawn by methods that do it once.
        spent += time.perf_counter() - began if began is not None else report.timing["seconds"]
        began = None
        write_json(file, {"seconds": spent})
        yield report


def _seconds(path: Path) -> float:
    """How long a method has been trained; 0 where it has not begun."""
    file = path / _SECONDS
    return json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.exists() else 0.0
