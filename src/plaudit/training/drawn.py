"""Responses of the SFT model to learn from, drawn and scored once, before training."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from plaudit import rng
from plaudit.errors import RunError
from plaudit.files import remove_file, sha256, sync, write_json, writes
from plaudit.models.loading import window
from plaudit.models.tokenizer import Runs
from plaudit.rewards import AnyReward, Reward
from plaudit.training import dist, stopping
from plaudit.training.models import Models
from plaudit.training.prompts import prompts_of, prompts_to_answer
from plaudit.training.rewards import as_reward, run_sources
from plaudit.training.rollouts import ScoreScale, generate
from plaudit.training.run import Run, files_of

FILE = "drawn.jsonl"
RECORD = "drawn.json"  # what the responses were drawn for, and once all are there, the hash of FILE
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

    What a run that was stopped has drawn is read, as far as it goes, if it was drawn for the same inputs and reward.

    Raises:
        DataError, ModelError: there is no prompt to answer.
        RewardError: the reward cannot score a response; what has been drawn before stays.
        RunError: drawn.jsonl is damaged.
    """
    settings, folder = getattr(run.config, stage), run.folder(stage)
    sources = run_sources(run, reward)
    opened = as_reward(run, reward, models, settings.lower_bound)
    prompts, dropped = prompts_to_answer(run, models.tokenizer, settings.max_new_tokens, window(models.policy.lm))
    run.checkpoints(stage, sources)  # what the responses depend on, before the first of them
    made_from = {"fingerprint": run.inputs(stage, sources)["fingerprint"], "reward_files": files_of(sources)}
    path = folder / FILE
    # Rank 0 reads these files for all: another host may still see the old ones, and ranks must not disagree.
    if not dist.on_main(lambda: _all_there(folder, made_from, stage)):
        with stopping.training_loop(stage):
            _complete(run, stage, models, opened, prompts, path)
        dist.on_main(lambda: _seal(folder, made_from))
    lines = [json.loads(line) for line in dist.on_main(lambda: path.read_text(encoding="utf-8")).splitlines()]
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


def _all_there(folder: Path, made_from: dict[str, Any], stage: str) -> bool:
    """Whether all responses have been drawn, for the same inputs; those drawn for others are removed."""
    record, path = folder / RECORD, folder / FILE
    if _drawn_from(record) != made_from:
        remove_file(path)
        write_json(record, made_from)
    known = json.loads(record.read_text(encoding="utf-8"))
    if "sha256" in known and not (path.exists() and sha256(path) == known["sha256"]):
        raise RunError(f"{path}: missing or changed since it was drawn; put it back, or start {stage} with --overwrite")
    return "sha256" in known


def _seal(folder: Path, made_from: dict[str, Any]) -> None:
    """Record that all responses are there."""
    sync(folder / FILE)
    write_json(folder / RECORD, made_from | {"sha256": sha256(folder / FILE)})


def _drawn_from(record: Path) -> dict[str, Any] | None:
    """What the responses in a folder were drawn for; None where there are none, or the record is damaged."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("fingerprint", "reward_files")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _complete(run: Run, stage: str, models: Models, reward: Reward, prompts: list[list[int]], path: Path) -> None:
    """Draw what is missing in a file, a few groups at a time; half of such a part is drawn again."""
    settings = getattr(run.config, stage)
    together = max(1, _AT_ONCE // settings.group_size)  # groups
    part, total = together * settings.group_size, settings.responses
    lines = dist.on_main(lambda: path.read_bytes().splitlines(keepends=True) if path.exists() else [])
    whole = [line for line in lines if line.endswith(b"\n")]
    done = len(whole) // part
    with (path if writes() else Path(os.devnull)).open("wb") as file:
        file.writelines(whole[: done * part])
        for number in range(done, -(-total // part)):
            if dist.any_rank(stopping.requested()):
                stopping.stop()
            asked = prompts_of(number, prompts, together, run.config.seed)[
                : (total - number * part) // settings.group_size
            ]
            for line in _part(
                run, stage, models, reward, [p for p in asked for _ in range(settings.group_size)], number
            ):
                file.write((json.dumps(line, allow_nan=False) + "\n").encode())
            file.flush()


def _part(
    run: Run, stage: str, models: Models, reward: Reward, rows: list[list[int]], number: int
) -> Iterator[dict[str, Any]]:
    """What drawn.jsonl has of each response to these prompts."""
    settings, tokenizer, share = getattr(run.config, stage), models.tokenizer, dist.rows(len(rows))
    asked = share or range(1)  # a rank without a share answers one prompt, which is left out
    limits = settings.min_new_tokens, settings.max_new_tokens

    def call() -> Any:
        noise = rng.uniforms(asked, limits[1], run.config.seed, stage, number, "drawn", limits[0])
        responses = generate(models.policy, [rows[i] for i in asked], noise, tokenizer, settings.temperature)
        raw = reward.total(reward.measured(responses)).double()
        shown = reward.shown(raw).tolist()
        drawn = [*zip(responses.tokens(), raw.tolist(), shown, responses.ended.tolist(), strict=True)]
        return drawn if share else []

    columns = zip(*chain(*dist.gather(dist.together(call))), strict=True)
    for ids, drawn, value, score, ended in zip(rows, *columns, strict=True):
        yield {
            "prompt": tokenizer.text(ids),
            "response": tokenizer.continuation(ids, drawn),
            "score": score,
            "raw_score": value,
            "ended": ended,
            "prompt_ids": ids,
            "response_ids": drawn,
        }
