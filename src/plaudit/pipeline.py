"""SFT -> reward model -> PPO -> evaluation in one run directory."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from plaudit.algorithms.reward_model import check_judged, judgements
from plaudit.algorithms.reward_model import tokenise as read_judgements
from plaudit.algorithms.sft import check_dropped, sft, tokenise, training_texts
from plaudit.config import ALGORITHMS, POLICIES, Config, build, flatten, given, read_saved, read_toml, without_effect
from plaudit.config import preset as settings_of
from plaudit.data.corpus import load
from plaudit.data.prompts import some_texts
from plaudit.errors import ConfigError, RunError
from plaudit.evaluation.doctor import check_memory, with_preflight_checks
from plaudit.evaluation.evaluate import evaluate, policy_stage, prompts_for
from plaudit.evaluation.hacking import detect_reward_hacking
from plaudit.evaluation.judge import open_judge
from plaudit.evaluation.memory import longest_prompt
from plaudit.maths.kl import bias
from plaudit.models.layers import number_of_frozen_layers
from plaudit.models.loading import check_classifier, model_without_weights, window
from plaudit.models.lora import FOLDER, check_installed
from plaudit.models.trial import TEXTS, try_model
from plaudit.records import transcript
from plaudit.rewards import AnyReward, Source, sources_of, uses_model
from plaudit.training import dist, ending, stopping
from plaudit.training.metrics import StepReport
from plaudit.training.prompts import counted_prompts, rows_that_fit, warn_of_skipped
from plaudit.training.rewards import try_reward
from plaudit.training.run import STAGES, Run
from plaudit.training.tokenizer import open_tokenizer


def open_run(
    path: str | Path,
    data: str | Iterable[Any] | None = None,
    settings: Mapping[str, Any] | str | Path | None = None,
    *,
    preset: str = "",
    overwrite: bool | Sequence[str] = False,
) -> Run:
    """Open a run directory for training, and lock it for this process; an existing one is continued.

    A stage that has finished is not trained again. One that was made with other settings or data is refused.

    Args:
        path: the folder; it is made if it does not exist.
        data: as in `load`, the data themselves included. None for the data in the settings.
        settings: by full name, {"ppo.lr": 1e-4}, or by table, {"ppo": {"lr": 1e-4}}, or a TOML file. They override the
            settings of an existing run directory, which override those of `preset`, which override the defaults.
        preset: name of built-in settings.
        overwrite: begin again: True removes the results of all stages, and the names of stages remove those and what
            was made from them.

    Raises:
        ConfigError: a setting is unknown, or its value is not allowed.
        DataError: the data cannot be learned from.
        RunError: the folder is no run directory, is used by another process, or was made with other settings or data.
    """
    path, known = Path(path), (*ALGORITHMS, "evaluation")
    again = (known if overwrite else ()) if isinstance(overwrite, bool) else tuple(overwrite)
    if unknown := set(again) - set(known):
        raise ConfigError(f"overwrite: no stage '{min(unknown)}'; the stages are {', '.join(known)}")
    file = path / "config.toml"
    before = read_saved(file) if file.exists() and overwrite is not True else {}
    own = flatten(dict(settings or {})) if not isinstance(settings, str | Path) else read_toml(Path(settings))
    layers = given(settings_of(preset) if preset else {}, before, own)
    if isinstance(data, str):
        layers["data.name"] = data
    elif data is not None:
        how = {
            name.removeprefix("data."): value for name, value in layers.items() if name.startswith("data.") and value
        }
        layers["data.name"] = load(data, **{name: value for name, value in how.items() if name != "name"}).name
    config = build(layers)
    load(config.data)
    return Run.open(path, config, resume=not again and file.exists(), overwrite=bool(again), stages=again or known)


def check(config: Config, path: Path, stages: tuple[str, ...], reward: AnyReward = None) -> list[str]:
    """Raise the errors that would stop a stage later, before anything is written or removed.

    The model is opened and tried once: see `try_model`.

    Returns:
        a line for each loss of 5% or more of the records.

    Raises:
        RunError: a stage that these are made from has not finished, or there is too little disk space.
        DataError: the data cannot be learned from.
        ModelError: the model cannot be opened or run, has no room for a prompt and its response, or needs a library
            that is missing.
        RewardError: a reward cannot be opened, or does not give one finite number for each of some texts.
    """
    run = Run(path, config)
    sources = sources_of(reward, config.reward)
    needs = {need for stage in stages for need in run.needs(stage, sources)} - set(stages)
    if "evaluation" in stages:
        needs -= set(POLICIES)
        if not set(POLICIES) & set(stages):
            policy_stage(run)
    for need in needs:
        run.model(need)
    adapted = (run.folder("reward_model") / FOLDER).exists() and "reward_model" not in stages
    policies = [stage for stage in stages if stage in POLICIES]
    if (adapted and policies) or any(getattr(getattr(config, s), "lora_rank", 0) for s in stages):
        check_installed()
    data = run.data
    name = config.model if "sft" in stages else run.model("sft")
    tokenizer, model = open_tokenizer(run, name), model_without_weights(name)
    for stage in stages:
        number_of_frozen_layers(model, getattr(getattr(config, stage), "train_layers", 0), f"{stage}.train_layers")
    limit, lines = window(model), [data.warning, *without_effect(config, stages)]
    if "reward_model" in stages:
        check_judged(run.judged.train)
        lines.append(run.judged.warning if run.judged is not data else "")
        check_classifier(model)
        longest = min(config.reward_model.max_tokens, limit)
        train, _, left_out = judgements(run.judged, tokenizer, longest, config.reward_model.ties)
        lines.append(check_dropped(len(train), left_out, "reward_model"))
    if "sft" in stages:
        longest = min(config.sft.max_tokens, limit)
        texts, left_out = training_texts(run, tokenizer, longest)
        lines.append(check_dropped(len(texts), left_out, "sft"))
        tokenise(data.evaluation.demonstrations, tokenizer, longest)
    prompts, skipped = counted_prompts(run, tokenizer) if policies else ([], {})
    lines.append(warn_of_skipped(run, skipped))
    for stage in policies:
        settings = getattr(config, stage)
        if getattr(settings, "kl_coef", 0) and (wrong := bias(settings.kl_estimator, settings.kl_in)):
            lines.append(f"{stage}: {wrong}")
        if run.reads_judgements(stage):
            lines.append(run.judged.warning if run.judged is not data else "")
            read, left_out = read_judgements(run.judged.train, tokenizer, min(settings.max_tokens, limit), stage=stage)
            lines.append(check_dropped(len(read), left_out, stage))
        else:
            lines.append(rows_that_fit(prompts, settings.max_new_tokens, limit, f"prompts of {stage}")[1])
    if ("evaluation" in stages or policies) and config.evaluation.judge not in ("auto", "film", "none"):
        judge = open_judge(config.evaluation.judge, config.reward_timeout)
        dist.on_main(lambda: judge.positive(["a response", "another one"], ["a prompt", "a prompt"]))
    if "evaluation" in stages:
        stage = policies[0] if policies else policy_stage(run)
        lines.append(prompts_for(run, tokenizer, getattr(config, stage).max_new_tokens, limit)[2])
    scored = "reward_model" in needs
    classifier = name if "reward_model" in stages else run.model("reward_model") if scored else None
    lines += try_reward(run, stages, name, reward).warnings
    samples = [f"{transcript(p)} {transcript(r)}".strip() for p, r in some_texts(data.train, TEXTS)]
    try_model(name, tokenizer, samples, run.device, classifier)
    if set(stages) & set(ALGORITHMS):
        check_memory(run, stages, model, longest_prompt(run, tokenizer))
    check_disk_space(run, [stage for stage in stages if stage != "evaluation"], model)
    return list(filter(None, lines))


def check_disk_space(run: Run, stages: list[str], model: Any) -> None:
    """Raise a RunError if the models and checkpoints of `stages` need more disk space than there is."""
    size = 4 * sum(p.numel() for p in model.parameters())
    settings = [getattr(run.config, stage) for stage in stages if not run.complete(stage)]
    whole = any(not s.train_layers and not getattr(s, "lora_rank", 0) for s in settings)
    # A checkpoint has the trained weights and two moments for each. Two are kept while a third is written. Those of
    # the members of an ensemble are kept until the last is finished.
    more = sum(getattr(s, "members", 1) - 1 for s in settings)
    needed = size * (len(settings) + more) + ((9 + 6 * more) * size if whole else 0)
    place = next(p for p in (run.path.absolute(), *run.path.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if settings and free < needed:
        raise RunError(
            f"{run.path}: {', '.join(stages)} need about {needed / 1e9:.1f} GB of disk space, and {free / 1e9:.1f} GB "
            "are free there; free some, or choose another --out"
        )


def due(run: Run, stages: tuple[str, ...]) -> tuple[str, ...]:
    """The unfinished ones of `stages`. The evaluation is repeated after any of them, or if it is the only stage."""
    # All ranks run the same stages, although another host may still see old files.
    unfinished = dist.on_main(lambda: [stage for stage in stages if not run.complete(stage)])
    again = ["evaluation"] if unfinished or stages == ("evaluation",) else []
    return tuple(stage for stage in stages if stage in unfinished + again)


def steps(run: Run, stages: Sequence[str] = STAGES, reward: AnyReward = None) -> Iterator[StepReport]:
    """Run the unfinished ones of `stages`, in order, with this reward or the reward in the run's settings.

    Several stages are checked before the first of them is trained; see `check` for what can be wrong. A reward model
    that nothing needs is not trained: see `stages_for`.

    Args:
        stages: names of algorithms, and "evaluation", each after those that it needs.
        reward: as in `ppo`.

    Raises:
        RunError: a finished policy of these stages was trained for another reward, or a stage that these are made from
            has not finished.
        PlauditError: as the stages themselves.
    """
    sources = sources_of(reward, run.config.reward)
    stages = stages_for(tuple(stages), sources)
    to_run = due(run, stages)
    if len(to_run) > 1:  # one stage alone finds its own errors before it trains
        for line in check(run.config, run.path, to_run, reward):
            warnings.warn(line, stacklevel=2)
    for stage in stages:
        if stage in to_run:
            yield from ending.recorded(run.path, stage, _reports(run, stage, reward), partial(run.complete, stage))
            if stage != to_run[-1] and dist.any_rank(stopping.requested()):  # a signal in the stage's last step
                stopping.stop()
        elif stage in POLICIES:
            run.check_reward(stage, sources)


def stages_for(stages: tuple[str, ...], sources: tuple[Source, ...]) -> tuple[str, ...]:
    """`stages` without the reward model where they train a policy for a reward of which it is no part."""
    if uses_model(sources) or not set(POLICIES) & set(stages):
        return stages
    return tuple(stage for stage in stages if stage != "reward_model")


def _reports(run: Run, stage: str, reward: AnyReward) -> Iterator[StepReport]:
    if stage == "evaluation":
        return evaluate(run, reward)
    if stage == "sft":
        return with_preflight_checks(run, stage, lambda models: sft(run, models and models.policy.lm))
    algorithm: Any = getattr(import_module(f"plaudit.algorithms.{stage}"), stage)
    if stage not in POLICIES:
        return with_preflight_checks(run, stage, lambda models: algorithm(run))
    reports = with_preflight_checks(run, stage, lambda models: algorithm(run, reward, models), reward)
    samples = hasattr(getattr(run.config, stage), "iterations") and dist.rank() == 0  # who has the logs
    return detect_reward_hacking(run, stage, reports, reward) if samples else reports
