"""The reward of a run: opened for training, and tried on a few texts before anything is trained."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from plaudit.batches import Responses, to_device
from plaudit.config import Config
from plaudit.data.prompts import prompt_of, some_texts
from plaudit.models.chat import without_refused
from plaudit.models.classifier import Classifier
from plaudit.models.ensemble import members_of
from plaudit.models.tokenizer import Tokenizer, join_prompts
from plaudit.records import Text
from plaudit.rewards import (
    REWARD_MODEL,
    AnyReward,
    EnsembleReward,
    FunctionReward,
    ModelReward,
    Part,
    Reward,
    Source,
    TextReward,
    described,
    sources_of,
    uses_model,
)
from plaudit.rewards.sources import short_names
from plaudit.training import dist
from plaudit.training.models import Models
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

REFERENCE_SAMPLES = 256  # responses of the reference on which scores are normalised
_TRIED = 8  # responses
_PROMPT = 4  # tokens of a text without a prompt that stand for one


def run_sources(run: Run, reward: AnyReward = None) -> tuple[Source, ...]:
    """The parts of `reward`, or of the reward in the run's settings if it is None."""
    return sources_of(reward, run.config.reward)


def needs_reward_model(run: Run, reward: AnyReward = None) -> bool:
    """Whether the run's reward model is a part of the reward."""
    return uses_model(run_sources(run, reward))


def weights_of(run: Run, reward: AnyReward = None) -> dict[str, float]:
    """The weight of each part by its name in logs; empty for a reward with a single part."""
    sources = run_sources(run, reward)
    weights = dict(zip(short_names(sources), (source.weight for source in sources), strict=True))
    return weights if len(weights) > 1 else {}


def as_reward(run: Run, reward: AnyReward, models: Models, lower_bound: float = 0.0) -> Reward:
    """Open the parts of a reward; None is the reward in the run's settings.

    Args:
        lower_bound: of an ensemble of reward models, as in `EnsembleReward`.

    Raises:
        ConfigError, RewardError, ModelError: a part is malformed, is missing, or cannot be opened.
    """
    sources = run_sources(run, reward)
    parts = []
    for name, source in zip(short_names(sources), sources, strict=True):
        if source.is_model:
            members = tuple(map(ModelReward, models.reward_models))
            ensemble = EnsembleReward(members, lower_bound) if len(members) > 1 else members[0]
            parts.append(Part(name, source.weight, ensemble))
        else:
            parts.append(Part(name, source.weight, _measure(run, source, models.tokenizer)))
    return Reward(tuple(parts), described(sources) or REWARD_MODEL)


def _measure(run: Run, source: Source, tokenizer: Tokenizer) -> FunctionReward:
    function = source.open()
    if function is not None:
        return FunctionReward(function, tokenizer, source.title, run.config.reward_timeout)
    name, label = source.classifier
    members = [Classifier(member, label, device=run.device) for member in members_of(name)]
    return FunctionReward(members[0] if len(members) == 1 else _mean(members), tokenizer, source.title)


def _mean(members: list[Classifier]) -> TextReward:
    def mean(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return np.mean([member(prompts, responses) for member in members], axis=0).tolist()

    return mean


def number_of_scored(config: Config, stage: str) -> tuple[int, int]:
    """How many responses the reward scores in a stage, and at most in one call."""
    settings = getattr(config, stage)
    if stage == "evaluation":
        return 2 * settings.prompts, settings.batch_size
    if hasattr(settings, "responses"):
        return settings.responses, max(REFERENCE_SAMPLES, settings.group_size)
    if not hasattr(settings, "iterations"):
        return 0, 0
    return REFERENCE_SAMPLES + settings.iterations * settings.batch_size, max(REFERENCE_SAMPLES, settings.batch_size)


@dataclass(frozen=True)
class Trial:
    """What a trial of a reward has found."""

    seconds: float  # a response, of all parts but the run's reward model
    warnings: tuple[str, ...]  # one line each


def try_reward(run: Run, stages: tuple[str, ...], model: str, reward: AnyReward = None) -> Trial:
    """Let every part but the run's reward model score eight texts of the training data, if these stages need them.

    Args:
        model: the language model whose tokenizer the texts pass through.

    Raises:
        ConfigError, RewardError, ModelError: a part cannot be opened, or does not give one finite number for each.
    """
    sources = tuple(source for source in run_sources(run, reward) if not source.is_model)
    largest = max(number_of_scored(run.config, stage)[1] for stage in stages)
    if not (sources and largest):
        return Trial(0.0, ())
    opened = tuple(source.open() for source in sources)  # a changed file is another function
    return dist.on_main(lambda: _try(run, model, largest, sources, opened))


@functools.lru_cache(maxsize=1)  # one trial for the checks and for the plan of a run
def _try(run: Run, model: str, largest: int, sources: tuple[Source, ...], opened: tuple[Any, ...]) -> Trial:
    seconds, warnings = 0.0, []
    tokenizer = open_tokenizer(run, model)
    responses = _texts(run, tokenizer)
    for source in sources:
        measure = _measure(run, source, tokenizer)
        began = time.perf_counter()
        values = measure(responses)
        took = (time.perf_counter() - began) / len(values)
        seconds += took
        if values.min() == values.max():
            warnings.append(
                f"reward '{source.title}': gives all of {len(values)} texts of the training data the value "
                f"{values[0].item():g}; a reward that never differs teaches nothing"
            )
        if measure.timeout and took * largest > measure.timeout:
            warnings.append(
                f"reward '{source.title}': {largest} responses may take {took * largest:.0f} s, longer than "
                f"reward_timeout = {measure.timeout:g}; raise it, or make the function faster"
            )
    return Trial(seconds, tuple(warnings))


def _texts(run: Run, tokenizer: Tokenizer) -> Responses:
    """Some prompts and responses of the training data."""

    def pair(texts: tuple[Text, Text]) -> tuple[list[int], list[int]]:
        *prompt, response = tokenizer.demonstration(*texts)
        if asked := prompt_of(*texts):
            return tokenizer.prompt(asked), response
        cut = min(_PROMPT, len(response) // 2)  # its beginning is the prompt
        return [*chain(*prompt), *response[:cut]], response[cut:]

    pairs = without_refused(some_texts(run.data.train, 8 * _TRIED), pair)[0][:_TRIED]
    return to_device(join_prompts(pairs, [True] * len(pairs), tokenizer.pad_id), run.device)
