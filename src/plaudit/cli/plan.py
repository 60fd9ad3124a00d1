"""What a run will work on, and how long it will take on this machine."""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from plaudit.config import Config
from plaudit.data.judgements import judgements_of
from plaudit.data.prompts import some_texts
from plaudit.data.splits import Part
from plaudit.models.chat import without_refused
from plaudit.models.loading import model_without_weights
from plaudit.training.prompts import training_prompts
from plaudit.training.rewards import number_of_scored, try_reward
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

# Fitted to the default run and to smollm2 on two cores: training reaches this share of the speed of one large product,
# and a stage spends this long on opening models, preflight checks and saving.
_EFFICIENCY, _STAGE_SECONDS = 0.5, 6.0
_MEASURED_TEXTS = 200


@dataclass(frozen=True)
class Plan:
    """What stages will work on, before they begin."""

    parameters: int  # of the model
    records: dict[str, int]  # demonstrations, or prompts alone, by split
    device: str
    dtype: str
    flops: dict[str, float]  # floating point operations by stage; an estimate, without stages that have none
    reward: dict[str, float] = field(
        default_factory=dict
    )  # seconds that functions and classifiers of the reward take, by stage

    def seconds(self, stages: Iterable[str]) -> float:
        """Expected time of these stages on this machine, good to a factor of two; it measures for 0.1 seconds."""
        speed = _EFFICIENCY * _flops_per_second(torch.device(self.device), getattr(torch, self.dtype))
        return sum(
            self.flops[stage] / speed + _STAGE_SECONDS + self.reward.get(stage, 0.0)
            for stage in stages
            if stage in self.flops
        )


def plan(config: Config, path: Path, stages: tuple[str, ...]) -> Plan:
    """What these stages will work on, from the data and the model's config."""
    run = Run(path, config)
    data = run.data
    name = config.model if "sft" in stages else run.model("sft")
    tokenizer, model = open_tokenizer(run, name), model_without_weights(name)
    prompts, _ = without_refused(training_prompts(run, tokenizer)[0], lambda text: len(tokenizer.prompt(text)))
    some, _ = without_refused(some_texts(data.train, _MEASURED_TEXTS), lambda pair: tokenizer.demonstration(*pair))
    text = statistics.fmean(sum(map(len, runs)) for runs in some)
    each = try_reward(run, stages, name).seconds
    return Plan(
        parameters=sum(p.numel() for p in model.parameters()),
        records={
            part: len(getattr(data, part).demonstrations or getattr(data, part).to_answer)
            for part in ("train", "prompts", "evaluation")
        },
        device=str(run.device),
        dtype=str(run.dtype).removeprefix("torch."),
        flops=_flops(config, stages, model, data.train, run.judged.train, text, statistics.fmean(prompts or [0.0])),
        reward={stage: each * number_of_scored(config, stage)[0] for stage in stages},
    )


def _flops(
    config: Config, stages: tuple[str, ...], model: Any, train: Part, judged_part: Part, text: float, prompt: float
) -> dict[str, float]:
    """Floating point operations by stage, for texts and prompts of these mean lengths in tokens.

    A token takes 2 operations a weight in a forward pass, and 4 more in a backward pass. Layers that do not learn run
    once, because their activations are cached.
    """
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()

    def answered(part: Any) -> float:
        """Tokens of a prompt and its response."""
        return prompt + min(part.max_new_tokens, max(text - prompt, 1))

    def learning(part: Any) -> float:
        """Operations of one token in all epochs, without the head."""
        share = part.train_layers / model.config.num_hidden_layers if part.train_layers else 1.0
        return body * (2 * (1 - share) + 6 * share * part.epochs)

    # Then log-probabilities, the reference's, and the scores.
    sampled = 2 * (body + head) + (2 + config.reward_model.members) * 2 * body + 2 * 2 * head
    judged = sum(len(judgement.texts) for judgement in judgements_of(judged_part)) if judged_part.judged else 0
    members = config.reward_model.members
    sft = config.sft
    flops = {
        "sft": len(train.demonstrations) * text * (learning(sft) + 6 * head * sft.epochs) * bool(sft.epochs),
        "reward_model": members * judged * text * learning(config.reward_model),
        "evaluation": 2 * config.evaluation.prompts * answered(config.ppo) * sampled,
    }
    for stage in stages:
        if hasattr(part := getattr(config, stage), "iterations"):  # it samples responses
            tokens = part.iterations * part.batch_size * answered(part)
            flops[stage] = tokens * (sampled + learning(part) + 6 * head * part.epochs)
    return {stage: count for stage, count in flops.items() if stage in stages}


def _flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of the fastest of many matrix products in 0.1 seconds, of a size that training has."""
    rows, width = (256, 512) if device.type == "cpu" else (4096, 4096)
    left, right = (torch.ones(size, width, dtype=dtype, device=device) for size in (rows, width))
    # One thread, because two that wait for each other on a busy machine can measure a tenth of the speed.
    threads, shortest, end = torch.get_num_threads(), math.inf, time.perf_counter() + 0.1
    torch.set_num_threads(1)
    try:
        while time.perf_counter() < end:
            began = time.perf_counter()
            torch.mm(left, right)[0, 0].item()  # .item() waits for a GPU
            shortest = min(shortest, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 2 * rows * width * width / shortest * (threads if device.type == "cpu" else 1)
