"""Responses of the SFT model to learn from, drawn and scored once, before training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from plaudit import rng
from plaudit.files import write_atomic
from plaudit.models.loading import window
from plaudit.models.tokenizer import Runs
from plaudit.rewards import AnyReward
from plaudit.training import stopping
from plaudit.training.models import Models
from plaudit.training.prompts import prompts_of, prompts_to_answer
from plaudit.training.rewards import as_reward, run_sources
from plaudit.training.rollouts import ScoreScale, generate
from plaudit.training.run import Run

FILE = "drawn.jsonl"
_AT_ONCE = 256  # responses


@dataclass(frozen=True)
class Drawn:
    """A response of the SFT model to a training prompt, and its score."""

    text: Runs  # ids of prompt and response
    score: float  # normalised, with the penalty for a missing end token


@dataclass(frozen=True)
class Groups:
    """Responses to one prompt after the other, and what is to be recorded of them."""

    groups: list[list[Drawn]]  # `group_size` responses to each prompt
    summary: dict[str, Any]  # for summary.json


def draw(run: Run, stage: str, models: Models, reward: AnyReward) -> Groups:
    """Draw `responses` of the policy, which is still the SFT model, and score them; leaves RUN/STAGE/drawn.jsonl.

    A file that is there already, of a run that was stopped, is read instead.

    Raises:
        DataError, ModelError: there is no prompt to answer.
        RewardError: the reward cannot score a response.
    """
    settings, path = getattr(run.config, stage), run.folder(stage) / FILE
    opened = as_reward(run, reward, models, settings.lower_bound)
    prompts, dropped = prompts_to_answer(run, models.tokenizer, settings.max_new_tokens, window(models.policy.lm))
    run.checkpoints(stage, run_sources(run, reward))  # what the responses depend on, before the first of them
    if not path.exists():
        with stopping.training_loop(stage):
            lines = list(_lines(run, stage, models, opened, prompts))
        write_atomic(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    raw, ended = (torch.tensor([line[name] for line in lines]) for name in ("raw_score", "ended"))
    scale = ScoreScale.measured(raw, settings.missing_eos_penalty)
    found = [
        Drawn((line["prompt_ids"], line["response_ids"]), score)
        for line, score in zip(lines, scale.scores(raw, ended).tolist(), strict=True)
    ]
    size = settings.group_size
    summary = {"responses": len(found), "prompts": len(prompts), "dropped": dropped, "reward": opened.name}
    summary |= {"parts": {part.name: part.weight for part in opened.parts}, "scale": dataclasses.asdict(scale)}
    return Groups([found[i : i + size] for i in range(0, len(found), size)], summary)


def _lines(run: Run, stage: str, models: Models, reward: Any, prompts: list[list[int]]) -> Iterator[dict[str, Any]]:
    """What drawn.jsonl has of each response, in groups to one prompt."""
    settings, tokenizer, seed = getattr(run.config, stage), models.tokenizer, run.config.seed
    size = settings.group_size
    together, left = max(1, _AT_ONCE // size), settings.responses // size  # groups
    for number in range(-(-left // together)):
        if stopping.requested():
            stopping.stop()
        asked = prompts_of(number, prompts, together, seed)[: left - number * together]
        rows = [prompt for prompt in asked for _ in range(size)]
        limits = settings.min_new_tokens, settings.max_new_tokens
        noise = rng.uniforms(range(len(rows)), limits[1], seed, stage, number, "drawn", limits[0])
        responses = generate(models.policy, rows, noise, tokenizer, settings.temperature)
        measured = reward.measured(responses)
        raw = reward.total(measured).double()
        scores = raw.tolist(), reward.shown(raw).tolist()
        for ids, drawn, value, score, ended in zip(
            rows, responses.tokens(), *scores, responses.ended.tolist(), strict=True
        ):
            yield {
                "prompt": tokenizer.text(ids),
                "response": tokenizer.continuation(ids, drawn),
                "score": score,
                "raw_score": value,
                "ended": ended,
                "prompt_ids": ids,
                "response_ids": drawn,
            }
