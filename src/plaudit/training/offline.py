"""Training of a policy on a fixed set of responses: what DPO, KTO and best-of-n share."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.batches import to_device
from plaudit.models.tokenizer import Runs, collate
from plaudit.rewards import Source
from plaudit.training import dist
from plaudit.training.metrics import StepReport
from plaudit.training.models import Models
from plaudit.training.optimizer import BatchLoss, adamw
from plaudit.training.run import Run
from plaudit.training.supervised import train_supervised

_AT_ONCE = 64  # texts


def train_offline(
    run: Run,
    stage: str,
    models: Models,
    texts: Sequence[Runs],
    sources: tuple[Source, ...],
    examples: Callable[[list[float]], Sequence[Any]],
    lengths: np.ndarray,
    batch_of: Callable[[Sequence[Any]], Any],
    loss: BatchLoss,
    count: Callable[[Any], int],
    summary: dict[str, Any],
) -> Iterator[StepReport]:
    """Train the policy as `train_supervised` does, one report a step; leaves its model and summary in RUN/STAGE.

    Args:
        texts: every response with its prompt.
        sources: the parts of the reward.
        examples: makes the records to learn from of the responses' log-probabilities under the SFT model, in nats.
        lengths, loss, count: as in `train_supervised`.
        batch_of: makes a batch of some records.
        summary: for summary.json.
    """
    settings, policy = getattr(run.config, stage), models.policy
    models.engine.remember(policy.lm, [[*chain(*runs)] for runs in texts], in_turn=dist.in_turn)
    optimizer = adamw(policy, settings.lr, settings.weight_decay)
    # Once, and before a checkpoint is restored: the policy is still the SFT model, to the last bit.
    records = examples(nats_of(policy, texts, models.tokenizer.pad_id, run.device, settings.temperature))
    yield from train_supervised(run, stage, policy, optimizer, records, lengths, batch_of, loss, count, sources=sources)
    models.save_policy(run, stage, optimizer)
    run.finish(stage, summary)


def response_nats(
    policy: Any,
    ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    loss_mask: Bool[Tensor, "B T"],
    temperature: float,
) -> Float[Tensor, "B"]:
    """Log-probability of each whole response, in nats."""
    mask = loss_mask[:, 1:]
    return policy(ids, attention_mask, mask, temperature)[0].masked_fill(~mask, 0.0).sum(1)


@torch.no_grad()
def nats_of(policy: Any, texts: Sequence[Runs], pad_id: int, device: torch.device, temperature: float) -> list[float]:
    """The same of many texts, in batches of similar length."""
    order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))

    def nats(start: int) -> list[float]:
        batch = to_device(collate([texts[i] for i in order[start : start + _AT_ONCE]], pad_id), device)
        return response_nats(policy, batch.ids, batch.attention_mask, batch.loss_mask, temperature).tolist()

    values = chain(*dist.each(range(0, len(order), _AT_ONCE), nats))
    found = dict(zip(order, values, strict=True))
    return [found[i] for i in range(len(texts))]
