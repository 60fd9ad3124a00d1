"""SFT -> reward model -> PPO -> evaluation in one run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from plaudit.algorithms.ppo import ppo
from plaudit.algorithms.reward_model import check_judged
from plaudit.algorithms.sft import sft
from plaudit.config import Config
from plaudit.data.prompts import cut_prompts
from plaudit.errors import RunError
from plaudit.evaluation.doctor import with_preflight_checks
from plaudit.evaluation.evaluate import POLICIES, evaluate, policy_stage
from plaudit.evaluation.hacking import detect_reward_hacking
from plaudit.models.layers import number_of_frozen_layers
from plaudit.models.loading import check_classifier, load_tokenizer, model_without_weights, window
from plaudit.models.lora import FOLDER, check_installed
from plaudit.models.trial import TEXTS, try_model
from plaudit.rewards import TextReward, reward_name
from plaudit.training.metrics import StepReport
from plaudit.training.rollouts import check_window
from plaudit.training.run import INPUTS_FILE, STAGES, Run, needs_of


def check(config: Config, path: Path, stages: tuple[str, ...], reward: TextReward | None = None) -> None:
    """Refuse, before anything is written or removed, what would stop a stage later.

    The model is opened and tried once: see `try_model`.

    Raises:
        RunError: a stage that these are made from has not finished.
        DataError: the data cannot be learned from.
        ModelError: the model cannot be opened or run, has no room for a prompt and its response, or needs a library
            that is missing.
    """
    run = Run(path, config)
    needs = {need for stage in stages for need in needs_of(stage)} - set(stages)
    if "evaluation" in stages:
        needs -= set(POLICIES)
        if not set(POLICIES) & set(stages):
            policy_stage(run)
    for need in needs:
        if not (need == "reward_model" and reward is not None):
            run.model(need)
    adapted = (run.folder("reward_model") / FOLDER).exists() and "reward_model" not in stages
    policies = [stage for stage in stages if stage in POLICIES]
    if (adapted and policies) or any(getattr(getattr(config, s), "lora_rank", 0) for s in stages):
        check_installed()
    data = run.data
    name = config.model if "sft" in stages else run.model("sft")
    tokenizer, model = load_tokenizer(name), model_without_weights(name)
    for stage in stages:
        number_of_frozen_layers(model, getattr(getattr(config, stage), "train_layers", 0), f"{stage}.train_layers")
    if "reward_model" in stages:
        check_judged(data.train)
        check_classifier(model)
    cut = (config.prompt_min, config.prompt_max, config.seed)
    for stage in policies:
        prompts = [tokenizer.prompt(t) for part in (data.prompts, data.evaluation) for t in cut_prompts(part, *cut)]
        check_window(prompts, getattr(config, stage).max_new_tokens, window(model))
    scored = "reward_model" in needs and reward is None
    classifier = name if "reward_model" in stages else run.model("reward_model") if scored else None
    texts = [f"{d.prompt} {d.response}".strip() for d in data.train.demonstrations[:TEXTS]]
    try_model(name, tokenizer, texts, run.device, classifier)


def steps(run: Run, stages: tuple[str, ...] = STAGES, reward: TextReward | None = None) -> Iterator[StepReport]:
    """Run these stages in order. A stage that has finished yields nothing; evaluation follows any that ran.

    Args:
        reward: what policies are trained for and measured by, from prompts and responses to a number for each; None for
            the run's reward model.

    Raises:
        RunError: a policy of these stages has been trained for another reward.
    """
    worked = False
    for stage in stages:
        alone = stages == (stage,) and stage == "evaluation"
        if run.complete(stage) and not alone and not (stage == "evaluation" and worked):
            if stage in POLICIES:
                _check_reward(run, stage, reward_name(reward))
            continue
        worked = True
        yield from _reports(run, stage, reward)


def _check_reward(run: Run, stage: str, reward: str) -> None:
    """Refuse a finished policy that was trained for another reward."""
    path = run.folder(stage) / INPUTS_FILE
    made = json.loads(path.read_text(encoding="utf-8")).get("reward", "") if path.exists() else reward
    if made != reward:
        before, now = (f"the reward '{name}'" if name else "the reward model" for name in (made, reward))
        remedy = "choose another --out, or use --overwrite"
        raise RunError(f"{run.path}: its {stage} was trained for {before}, not for {now}; {remedy}")


def _reports(run: Run, stage: str, reward: TextReward | None) -> Iterator[StepReport]:
    if stage == "evaluation":
        return evaluate(run, reward)
    if stage == "sft":
        return with_preflight_checks(run, stage, lambda models: sft(run, models.policy.lm))
    if stage == "ppo":
        reports = with_preflight_checks(run, stage, lambda models: ppo(run, reward, models), reward)
        return detect_reward_hacking(run, stage, reports)
    algorithm: Any = getattr(import_module(f"plaudit.algorithms.{stage}"), stage)
    if stage in POLICIES:
        return detect_reward_hacking(run, stage, algorithm(run, reward))
    return algorithm(run)
