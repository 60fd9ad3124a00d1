"""SFT -> reward model -> PPO -> evaluation in one run directory."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from plaudit.algorithms.reward_model import check_judged
from plaudit.algorithms.sft import sft
from plaudit.config import ALGORITHMS, Config
from plaudit.data.prompts import cut_prompts
from plaudit.errors import RunError
from plaudit.evaluation.doctor import check_memory, with_preflight_checks
from plaudit.evaluation.evaluate import POLICIES, evaluate, policy_stage
from plaudit.evaluation.hacking import detect_reward_hacking
from plaudit.models.layers import number_of_frozen_layers
from plaudit.models.loading import check_classifier, load_tokenizer, model_without_weights, window
from plaudit.models.lora import FOLDER, check_installed
from plaudit.rewards import TextReward, reward_name
from plaudit.training.metrics import StepReport
from plaudit.training.rollouts import check_window
from plaudit.training.run import STAGES, Run, needs_of


def check(config: Config, path: Path, stages: tuple[str, ...], reward: TextReward | None = None) -> None:
    """Refuse, before anything is written or removed, what would stop a stage later.

    Only the model's config and tokenizer are opened, not its weights.

    Raises:
        RunError: a stage that these are made from has not finished.
        DataError: the data cannot be learned from.
        ModelError: the model cannot be opened, has no room for a prompt and its response, or needs a missing library.
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
    if set(stages) & set(ALGORITHMS):
        texts = map(tokenizer.prompt, cut_prompts(data.prompts, *cut)[:100])
        check_memory(run, stages, model, max(map(len, texts), default=0))


def due(run: Run, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Those of these stages that have not finished. The evaluation is made again after any of them, and alone."""
    unfinished = [stage for stage in stages if not run.complete(stage)]
    again = ["evaluation"] if unfinished or stages == ("evaluation",) else []
    return tuple(stage for stage in stages if stage in unfinished + again)


def steps(run: Run, stages: tuple[str, ...] = STAGES, reward: TextReward | None = None) -> Iterator[StepReport]:
    """Run those of these stages that are due, in order, for this reward or for the run's reward model.

    Raises:
        RunError: a policy of these stages has been trained for another reward.
    """
    to_run = due(run, stages)
    for stage in stages:
        if stage in to_run:
            yield from _reports(run, stage, reward)
        elif stage in POLICIES:
            _check_reward(run, stage, reward_name(reward))


def _check_reward(run: Run, stage: str, reward: str) -> None:
    """Refuse a finished policy that was trained for another reward."""
    made = (run.made_from(stage) or {"reward": reward}).get("reward", "")
    if made != reward:
        before, now = (f"the reward '{name}'" if name else "the reward model" for name in (made, reward))
        remedy = "choose another --out, or use --overwrite"
        raise RunError(f"{run.path}: its {stage} was trained for {before}, not for {now}; {remedy}")


def _reports(run: Run, stage: str, reward: TextReward | None) -> Iterator[StepReport]:
    if stage == "evaluation":
        return evaluate(run, reward)
    if stage == "sft":
        return with_preflight_checks(run, stage, lambda models: sft(run, models.policy.lm))
    algorithm: Any = getattr(import_module(f"plaudit.algorithms.{stage}"), stage)
    if stage not in POLICIES:
        return algorithm(run)
    reports = with_preflight_checks(run, stage, lambda models: algorithm(run, reward, models), reward)
    return detect_reward_hacking(run, stage, reports)
