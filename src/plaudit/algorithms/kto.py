"""KTO: learn from responses that are marked as good or bad, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.algorithms.best_of_n import sequences_of
from plaudit.algorithms.reward_model import tokenise
from plaudit.algorithms.sft import check_dropped, length
from plaudit.batches import MarkedBatch, Rollout, number_of_rows
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.maths.losses import Loss, kto_loss
from plaudit.models.loading import window
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Runs, collate
from plaudit.rewards import AnyReward
from plaudit.settings import DrawnConfig, setting
from plaudit.training.drawn import draw
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.offline import nats_of, response_nats, train_offline
from plaudit.training.rewards import run_sources
from plaudit.training.rollouts import Objective
from plaudit.training.run import Run

NEEDS = ("sft", "reward_model")


@dataclass(frozen=True)
class Config(DrawnConfig):
    """Kahneman-Tversky optimisation: raise the probability of good responses, and lower that of bad ones."""

    source: str = setting(
        "auto",
        "data learns from the labels of the data, drawn from responses of the SFT model, good where the reward gives "
        "more than its mean; auto is data where the data has labels of responses to prompts, otherwise drawn",
        choices=("auto", "data", "drawn"),
    )
    beta: float = setting(
        0.1, "how soon a response is good or bad enough; raise it to stay closer to the SFT model", low=1e-6
    )
    good_weight: float = setting(
        1.0, "weight of good responses; with few of them, raise it to the number of bad ones over theirs", low=0
    )
    bad_weight: float = setting(1.0, "weight of bad responses", low=0)


@dataclass(frozen=True)
class Marked:
    """A response with its prompt."""

    text: Runs
    mark: float  # share of people who call it good
    reference: float = 0.0  # its log-probability under the SFT model, in nats


def kto(run: Run, reward: AnyReward = None, models: Models | None = None) -> Iterator[StepReport]:
    """Train the policy on marked responses, one report a step; leaves RUN/kto.

    Args:
        reward: as in `ppo`; it marks the responses that are drawn.
        models: if they are open already.

    Raises:
        DataError: all marks are equal.
        PlauditError: as in `ppo`.

    Source: Ethayarajh et al. 2024.
    """
    settings, sources = run.config.kto, run_sources(run, reward)
    models = models or Models.load(run, "kto", reward_model="reward_model" in run.needs("kto", sources))
    if run.reads_judgements("kto"):
        marked, summary = marked_in_data(run, models)
    else:
        found = draw(run, "kto", models, reward)
        # Scores are normalised, but a response that did not end has lost a penalty.
        drawn = [response for group in found.groups for response in group]
        marked, summary = [Marked(d.text, float(d.score > 0)) for d in drawn], found.summary
    if len({m.mark for m in marked}) == 1:
        raise DataError(f"all {len(marked)} responses have the same mark: KTO learns from good and bad ones")
    yield from train_offline(
        run,
        "kto",
        models,
        [m.text for m in marked],
        sources,
        examples=lambda nats: [replace(m, reference=value) for m, value in zip(marked, nats, strict=True)],
        lengths=np.array([length(m.text) for m in marked]),
        batch_of=lambda some: collate_marked(run, models, some),
        loss=lambda batch: marked_loss(models.policy, batch, settings),
        count=number_of_rows,
        summary=summary
        | {"good": sum(m.mark > 0.5 for m in marked), "source": "data" if run.reads_judgements("kto") else "drawn"},
    )


def can_learn_from(part: Part) -> bool:
    """Whether there are labels of responses to prompts, and no comparisons."""
    return any(labelled.prompt for labelled in part.labelled) and not (part.comparisons or part.rankings)


def marked_in_data(run: Run, models: Models) -> tuple[list[Marked], dict[str, Any]]:
    """The labelled texts of the training data, and what summary.json says of them."""
    part = Part(run.judged.train.labelled)
    if not part.labelled:
        raise DataError(f"{run.judged.name}: no labels; use --kto.source drawn, or other data")
    longest = min(run.config.kto.max_tokens, window(models.policy.lm))
    examples, dropped = tokenise(part, models.tokenizer, longest, stage="kto")
    check_dropped(len(examples), dropped, "kto")
    marked = [Marked(example.texts[0], example.judgement.weight) for example in examples]
    return marked, {"records": len(marked), "dropped": dict(Counter(run.judged.dropped) + Counter(dropped))}


def mismatched(texts: Sequence[Runs], limit: int) -> list[Runs]:
    """Each prompt with the response to the next one, cut where the window of `limit` tokens ends."""
    prompts = [[*chain(*runs[:-1])] for runs in texts]
    others = [runs[-1] for runs in (*texts[1:], texts[0])]
    return [(prompt, other[: limit - len(prompt)]) for prompt, other in zip(prompts, others, strict=True)]


def kl_of_mismatched(
    policy: Policy, reference: Any, texts: Sequence[Runs], pad_id: int, device: torch.device, temperature: float
) -> float:
    """KL of policy from reference on responses to other prompts, in nats a response.

    As published, it is biased and never below 0. For a single response it is 0.
    """
    if len(texts) == 1:
        return 0.0
    texts = mismatched(texts, window(policy.lm))
    pair = (policy, Policy(reference, policy.engine, value_head=False))
    now, before = (nats_of(each, texts, pad_id, device, temperature) for each in pair)
    policy.engine.forget()  # texts that no other batch reads
    return max(0.0, float(np.mean(np.subtract(now, before))))


def collate_marked(run: Run, models: Models, some: Sequence[Marked]) -> MarkedBatch:
    """Some responses as a batch. The KL of policy from reference is measured on the whole batch, without gradients."""
    pad_id, temperature = models.tokenizer.pad_id, run.config.kto.temperature
    texts = [m.text for m in some]
    kl = kl_of_mismatched(models.policy, models.reference, texts, pad_id, run.device, temperature)
    return MarkedBatch(
        collate(texts, pad_id),
        torch.tensor([m.reference for m in some]),
        torch.tensor([m.mark for m in some]),
        torch.full((len(some),), kl),
    )


def marked_loss(policy: Any, batch: MarkedBatch, settings: Config) -> tuple[Loss, dict[str, Tensor]]:
    """KTO's loss by responses, and figures."""
    texts = batch.sequences
    nats = response_nats(policy, texts.ids, texts.attention_mask, texts.loss_mask, settings.temperature)
    ratios = nats - batch.reference
    loss = kto_loss(ratios, batch.mark, batch.kl, settings.beta, settings.good_weight, settings.bad_weight)
    right = ((ratios > batch.kl) == (batch.mark > 0.5)).float().masked_fill(ratios == batch.kl, 0.5)
    return loss, {"accuracy": right.sum(), "log_ratio": ratios.detach().sum(), "kl_mismatched": batch.kl.sum()}


def marked_of_rollout(rollout: Rollout) -> MarkedBatch:
    """The responses of a rollout, for the preflight checks: good where the score is above the mean."""
    scores = rollout.scores
    marks = (scores > scores.mean()).float()
    return MarkedBatch(sequences_of(rollout), rollout.ref_logprobs.sum(1), marks, torch.zeros_like(scores))


OBJECTIVE = Objective(
    batch=lambda policy, rollout, states, kl_coef, settings: marked_of_rollout(rollout),
    loss=marked_loss,
    count=lambda batch, settings: number_of_rows(batch),
)
