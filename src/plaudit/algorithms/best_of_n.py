"""Best-of-n: draw n responses of the SFT model to each prompt, and imitate the one with the highest score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plaudit import rng
from plaudit.algorithms.sft import length, number_of_targets
from plaudit.batches import Rollout, Sequences
from plaudit.maths.losses import Loss, causal_lm_loss
from plaudit.models.tokenizer import Runs, collate
from plaudit.rewards import AnyReward
from plaudit.settings import DrawnConfig, setting
from plaudit.training.drawn import Drawn, draw
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.offline import train_offline
from plaudit.training.rewards import needs_reward_model, run_sources
from plaudit.training.rollouts import Objective
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(DrawnConfig):
    """Rejection sampling: supervised fine-tuning on the best of n responses of the SFT model."""

    keep: str = setting(
        "best",
        "best learns from the response of each group with the highest score, random from any: the control that shows "
        "what selection adds",
        choices=("best", "random"),
    )
    epochs: int = setting(4, "passes over the responses that are kept; raise it while the score still rises", low=1)


def best_of_n(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy to imitate the best of `group_size` responses, one report a step; leaves RUN/best_of_n.

    Args:
        reward: as in `ppo`.
        models: if they are open already.

    Raises:
        PlauditError: as in `ppo`.

    Source: Stiennon et al. 2020 for best-of-n; Touvron et al. 2023 (Llama 2), section 3.2.3, for learning from it.
    """
    settings = run.config.best_of_n
    models = models or Models.load(run, "best_of_n", reward_model=needs_reward_model(run, reward))
    found = draw(run, "best_of_n", models, reward)
    texts = kept(found.groups, settings.keep, run.config.seed)
    pad_id = models.tokenizer.pad_id
    yield from train_offline(
        run,
        "best_of_n",
        models,
        texts,
        run_sources(run, reward),
        examples=lambda nats: texts,
        lengths=np.array([length(text) for text in texts]),
        batch_of=lambda some: collate(some, pad_id),
        loss=lambda batch: (imitation_loss(models.policy, batch, settings), {}),
        count=number_of_targets,
        summary=found.summary | {"kept": len(texts), "keep": settings.keep},
    )


def kept(groups: list[list[Drawn]], keep: str, seed: int) -> list[Runs]:
    """One response of each group: the first of those with the highest score, or any."""
    if keep == "best":
        return [max(group, key=lambda d: d.score).text for group in groups]
    places = rng.generator(seed, "best_of_n", 0, "control").integers(len(groups[0]), size=len(groups))
    return [group[place].text for group, place in zip(groups, places, strict=True)]


def imitation_loss(policy: Any, batch: Sequences, settings: Config) -> Loss:
    """Negative log-likelihood of the responses at the temperature of sampling: (sum in nats, number of tokens)."""
    mask = batch.loss_mask[:, 1:]
    logprobs, _ = policy(batch.ids, batch.attention_mask, mask, settings.temperature)
    return causal_lm_loss(logprobs, mask)


def sequences_of(rollout: Rollout) -> Sequences:
    """The responses of a rollout as texts to imitate, for the preflight checks."""
    responses = rollout.responses
    learned = torch.cat([torch.zeros_like(responses.prompt_mask), responses.response_mask], 1)
    return Sequences(responses.ids, responses.attention_mask, learned)


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: sequences_of(rollout),
    loss=lambda policy, batch, settings: (imitation_loss(policy, batch, settings), {}),
    count=lambda batch, settings: number_of_targets(batch),
)
