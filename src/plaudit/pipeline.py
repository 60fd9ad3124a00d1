"""SFT -> reward model -> PPO -> evaluation in one run directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plaudit.algorithms.ppo import check_window, ppo
from plaudit.algorithms.reward_model import reward_model
from plaudit.algorithms.sft import sft
from plaudit.config import Config
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.evaluation.doctor import after_doctor
from plaudit.evaluation.evaluate import evaluate
from plaudit.evaluation.hacking import watch
from plaudit.models.loading import load_causal_lm, load_tokenizer, window
from plaudit.models.lora import FOLDER, check_installed
from plaudit.models.trunk import frozen_blocks
from plaudit.training.metrics import StepReport
from plaudit.training.run import STAGES, Run

_DRIVERS = {"sft": sft, "reward_model": reward_model, "ppo": ppo, "evaluation": evaluate}


def check(config: Config, path: Path, stages: tuple[str, ...]) -> None:
    """Refuse, before anything is written or removed, what would stop a stage later.

    Raises:
        RunError: a stage that these build on has not finished.
        DataError: the data cannot be learned from.
        ModelError: the model cannot be opened, has no room for a prompt and its response, or needs what is missing.
    """
    for earlier in STAGES[: min(STAGES.index(stage) for stage in stages)]:
        Run(path, config).model(earlier)
    adapted = (
        "ppo" in stages
        and "reward_model" not in stages
        and (Run(path, config).folder("reward_model") / FOLDER).exists()
    )
    if adapted or any(getattr(getattr(config, stage), "lora_rank", 0) for stage in stages):
        check_installed()
    data = load(config.data)
    if "sft" not in stages:
        return
    tokenizer, model = load_tokenizer(config.model), load_causal_lm(config.model)
    for stage in stages:
        frozen_blocks(model, getattr(getattr(config, stage), "train_layers", 0), f"{stage}.train_layers")
    if "ppo" in stages:
        cut = (config.prompt_min, config.prompt_max, config.seed)
        prompts = [tokenizer.prompt(t) for part in (data.prompts, data.evaluation) for t in cut_prompts(part, *cut)]
        check_window(prompts, config.ppo.max_new_tokens, window(model))


def steps(config: Config, run: Run, stages: tuple[str, ...] = STAGES) -> Iterator[StepReport]:
    """Run these stages in order. A stage that has finished yields nothing, and evaluation follows any that ran."""
    worked = False
    for stage in stages:
        alone = stages == (stage,) and stage == "evaluation"
        if run.complete(stage) and not alone and not (stage == "evaluation" and worked):
            continue
        worked = True
        reports = _DRIVERS[stage](config, run)
        if stage == "ppo":
            reports = watch(run, reports)
        if stage in ("sft", "ppo"):
            reports = after_doctor(config, run, stage, reports)
        yield from reports
