"""DPO: learn from pairs of responses without a reward model and without sampling during training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.algorithms.reward_model import tokenise
from plaudit.algorithms.sft import check_dropped, length
from plaudit.batches import PairBatch, Rollout, number_of_rows
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.maths.losses import Loss, dpo_loss, ipo_loss, simpo_loss
from plaudit.models.loading import window
from plaudit.models.tokenizer import Runs, collate
from plaudit.rewards import AnyReward
from plaudit.settings import DrawnConfig, setting
from plaudit.training.drawn import Drawn, draw
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.offline import response_nats, train_offline
from plaudit.training.rewards import run_sources
from plaudit.training.rollouts import Objective
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(DrawnConfig):
    """Direct preference optimisation: raise the probability of the better response of two."""

    source: str = setting(
        "auto",
        "data learns from the comparisons and rankings of the data, drawn from responses of the SFT model, the best "
        "and the worst of each group by the reward; auto is data where the data has them, otherwise drawn",
        choices=("auto", "data", "drawn"),
    )
    loss: str = setting(
        "sigmoid",
        "sigmoid is the published loss; ipo does not push a margin beyond 1 / (2 beta); simpo compares mean "
        "log-probabilities and has no reference",
        choices=("sigmoid", "ipo", "simpo"),
    )
    beta: float = setting(
        0.1,
        "strength of the KL penalty that the loss stands for; raise it to stay closer to the SFT model",
        low=1e-6,
        only_with="loss=sigmoid|ipo",
    )
    label_smoothing: float = setting(
        0.0, "share of the preferences that are taken to be mistakes; for loss = sigmoid", low=0, high=0.5
    )
    simpo_beta: float = setting(
        2.0,
        "weight of the mean log-probabilities, in place of beta; for loss = simpo",
        low=1e-6,
        only_with="loss=simpo",
    )
    simpo_margin: float = setting(
        1.0,
        "by how much simpo_beta times the difference of the means should be larger",
        unit="nats",
        low=0,
        only_with="loss=simpo",
    )


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, each with its prompt."""

    texts: tuple[Runs, Runs]
    weight: float  # share of people who prefer the first
    reference: tuple[float, float] = (0.0, 0.0)  # log-probability of each response under the SFT model, in nats


def dpo(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy on pairs of responses, one report a step; leaves RUN/dpo.

    Args:
        reward: as in `ppo`; it ranks the responses that are drawn.
        models: if they are open already.

    Raises:
        DataError: there is no pair to learn from.
        PlauditError: as in `ppo`.

    Source: Rafailov et al. 2023.
    """
    settings, sources = run.config.dpo, run_sources(run, reward)
    models = models or Models.load(run, "dpo", reward_model="reward_model" in run.needs("dpo", sources))
    if run.reads_judgements("dpo"):
        pairs, summary = pairs_of_data(run, models)
    else:
        found = draw(run, "dpo", models, reward)
        pairs = [pair for group in found.groups if (pair := best_and_worst(group))]
        summary = found.summary | {"equal_scores": len(found.groups) - len(pairs)}
        if not pairs:
            raise DataError("the reward gives all responses to each prompt the same score: there is nothing to compare")
    yield from train_offline(
        run,
        "dpo",
        models,
        [text for pair in pairs for text in pair.texts],
        sources,
        examples=lambda nats: with_reference(pairs, nats),
        lengths=np.array([max(map(length, pair.texts)) for pair in pairs]),
        batch_of=lambda some: collate_pairs(some, models.tokenizer.pad_id),
        loss=lambda batch: pair_loss(models.policy, batch, settings),
        count=number_of_rows,
        summary=summary | {"pairs": len(pairs), "source": "data" if run.reads_judgements("dpo") else "drawn"},
    )


def can_learn_from(part: Part) -> bool:
    """Whether there are comparisons or rankings."""
    return bool(part.comparisons or part.rankings)


def best_and_worst(group: Sequence[Drawn]) -> Pair | None:
    """The pair to learn from, of responses to one prompt; None where all have the same score."""
    best, worst = max(group, key=lambda d: d.score), min(group, key=lambda d: d.score)
    return Pair((best.text, worst.text), 1.0) if best.score > worst.score else None


def pairs_of_data(run: Run, models: Models) -> tuple[list[Pair], dict[str, Any]]:
    """The comparisons and pairs of rankings in the training data, and what summary.json says of them.

    A tie is a pair that half of the people prefer either way.
    """
    if not can_learn_from(run.judged.train):
        raise DataError(f"{run.judged.name}: no comparisons and no rankings; use --dpo.source drawn, or other data")
    longest = min(run.config.dpo.max_tokens, window(models.policy.lm))
    examples, dropped = tokenise(run.judged.train, models.tokenizer, longest, stage="dpo")
    check_dropped(len(examples), dropped, "dpo")
    pairs = [
        Pair((first, second), example.judgement.weight)
        for example in examples
        for first, second in combinations(example.texts, 2)
    ]
    return pairs, {"records": len(examples), "dropped": dict(Counter(run.judged.dropped) + Counter(dropped))}


def with_reference(pairs: Sequence[Pair], nats: Sequence[float]) -> list[Pair]:
    """The pairs with the log-probabilities of their responses, first and second in turn."""
    return [
        replace(pair, reference=both) for pair, both in zip(pairs, zip(nats[::2], nats[1::2], strict=True), strict=True)
    ]


def collate_pairs(pairs: Sequence[Pair], pad_id: int) -> PairBatch:
    """Some pairs as a batch."""
    flat = collate([text for pair in pairs for text in pair.texts], pad_id)
    ids, attention_mask, loss_mask = (
        x.view(len(pairs), 2, -1) for x in (flat.ids, flat.attention_mask, flat.loss_mask)
    )
    reference, weight = torch.tensor([p.reference for p in pairs]), torch.tensor([p.weight for p in pairs])
    return PairBatch(ids, attention_mask, loss_mask, reference, weight)


def pair_loss(policy: Any, batch: PairBatch, settings: Config) -> tuple[Loss, dict[str, Tensor]]:
    """The loss of the settings, by pairs, and figures in which a tie, or a margin of 0, counts as half right."""
    mask = batch.loss_mask.flatten(0, 1)
    nats = response_nats(
        policy, batch.ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), mask, settings.temperature
    )
    nats, weight = nats.view(-1, 2), batch.weight
    ratios = nats - batch.reference
    margins = ratios[:, 0] - ratios[:, 1]
    if settings.loss == "simpo":
        means = nats / mask.sum(1).view(-1, 2)
        margins = means[:, 0] - means[:, 1]
        loss = simpo_loss(margins, weight, settings.simpo_beta, settings.simpo_margin)
    elif settings.loss == "ipo":
        loss = ipo_loss(margins, weight, settings.beta)
    else:
        loss = dpo_loss(margins, weight, settings.beta, settings.label_smoothing)
    first = weight[:, None] > 0.5
    better, worse = torch.where(first, ratios, ratios.flip(1)).detach().unbind(1)
    right = ((margins > 0) == (weight > 0.5)).float().masked_fill((weight == 0.5) | (margins == 0), 0.5)
    figures = {"accuracy": right, "margin": better - worse, "log_ratio_better": better, "log_ratio_worse": worse}
    return loss, {name: values.sum() for name, values in figures.items()}


def pairs_of_rollout(rollout: Rollout) -> PairBatch:
    """The rows of a rollout two by two, for the preflight checks."""
    responses, n = rollout.responses, len(rollout.scores) // 2
    learned = torch.cat([torch.zeros_like(responses.prompt_mask), responses.response_mask], 1)
    tensors = (responses.ids, responses.attention_mask, learned, rollout.ref_logprobs.sum(1))
    ids, attention_mask, loss_mask, reference = (x[: 2 * n].view(n, 2, *x.shape[1:]) for x in tensors)
    weight = (rollout.scores[: 2 * n : 2] > rollout.scores[1 : 2 * n : 2]).float()
    return PairBatch(ids, attention_mask, loss_mask, reference, weight)


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: pairs_of_rollout(rollout),
    loss=pair_loss,
    count=lambda batch, settings: number_of_rows(batch),
)
