"""Supervised fine-tuning: imitate demonstrations by maximum likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plaudit.batches import Sequences, to_device
from plaudit.config import LORA_ALPHA, LORA_RANK, MICROBATCH_SIZE, setting
from plaudit.errors import DataError
from plaudit.maths.losses import Loss, causal_lm_loss
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.loading import load_causal_lm, load_tokenizer, save, window
from plaudit.models.lora import add_adapters
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.records import Demonstration
from plaudit.training.engine import choose_engine
from plaudit.training.metrics import StepReport
from plaudit.training.optimizer import adamw
from plaudit.training.run import Run
from plaudit.training.supervised import train_supervised

NEEDS = ()
Pair = tuple[list[int], list[int]]  # token ids of a prompt and of its response


@dataclass(frozen=True)
class Config:
    """Supervised fine-tuning: train the model to imitate the training texts."""

    epochs: int = setting(2, "passes over the training texts; raise it while held-out perplexity still falls", low=1)
    batch_size: int = setting(32, "texts in one optimizer step", unit="texts", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="texts", low=0)
    train_layers: int = setting(
        0,
        "train only this many layers, counted from the output, and keep the others fixed: faster, with less memory; "
        "0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1)
    lr: float = setting(1e-3, "peak learning rate of AdamW; lower it if the loss jumps", low=0, high=1)
    warmup: float = setting(
        0.05, "fraction of the steps in which the learning rate rises linearly to its peak", low=0, high=1
    )
    weight_decay: float = setting(0.01, "decoupled weight decay of AdamW; raise it against overfitting", low=0, high=1)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    max_tokens: int = setting(
        64, "longest text to train on; longer ones are left out and counted", unit="tokens", low=4
    )
    save_every: int = setting(100, "steps between checkpoints", unit="steps", low=1)


def sft(run: Run, lm: Any = None) -> Iterator[StepReport]:
    """Fine-tune the base model on the training demonstrations, one report a step; leaves RUN/sft.

    Args:
        lm: the base model, if it is open already.

    Raises:
        DataError: no demonstration is short enough.
        TrainingError: a loss or gradient is not finite.
    """
    settings, data = run.config.sft, run.data
    tokenizer = load_tokenizer(run.config.model)
    lm = lm or load_causal_lm(run.config.model).to(run.device)
    longest = min(settings.max_tokens, window(lm))
    train, too_long = tokenise(data.train.demonstrations, tokenizer, longest)
    held_out, _ = tokenise(data.evaluation.demonstrations, tokenizer, longest)

    freeze_lower_layers(lm, settings.train_layers, "sft.train_layers")
    add_adapters(lm, settings, run.config.seed, "sft")
    engine = choose_engine(run, "sft", lm)
    engine.prepare(lm)
    engine.remember(lm, [[*prompt, *response] for prompt, response in train + held_out])
    policy = Policy(lm, engine, value_head=False).eval()
    optimizer = adamw(policy, settings.lr, settings.weight_decay)

    def batch_of(pairs: Sequence[Pair]) -> Sequences:
        return collate(pairs, tokenizer.pad_id)

    def loss(batch: Sequences) -> tuple[Loss, dict[str, torch.Tensor]]:
        return sft_loss(policy, batch), {}

    before = perplexity(policy, held_out, tokenizer, run.device)
    lengths = np.array([len(prompt) + len(response) for prompt, response in train])
    yield from train_supervised(run, "sft", policy, optimizer, train, lengths, batch_of, loss, number_of_targets)

    after = perplexity(policy, held_out, tokenizer, run.device)
    engine.restore(lm, optimizer, lambda: load_causal_lm(run.config.model))
    save(lm, tokenizer, run.folder("sft"))
    summary = {
        "texts": len(train),
        "held_out_texts": len(held_out),
        "dropped": data.dropped | {"too long": too_long},
        "perplexity_before": before,
        "perplexity": after,
    }
    run.finish("sft", summary)


def sft_loss(policy: Any, batch: Sequences) -> Loss:
    """Negative log-likelihood of the response tokens; the token before each predicts it, so the first has no loss."""
    mask = batch.loss_mask[:, 1:]
    logprobs, _ = policy(batch.ids, batch.attention_mask, mask)
    return causal_lm_loss(logprobs, mask)


def number_of_targets(batch: Sequences) -> int:
    """Tokens that have a loss."""
    return int(batch.loss_mask[:, 1:].sum())


def tokenise(demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, max_tokens: int) -> tuple[list[Pair], int]:
    """Token ids of every demonstration of at most `max_tokens`, and how many were longer.

    Raises:
        DataError: none is short enough.
    """
    pairs = [tokenizer.demonstration(d.prompt, d.response) for d in demonstrations]
    short = [p for p in pairs if len(p[0]) + len(p[1]) <= max_tokens]
    if not short:
        raise DataError(f"none of {len(pairs)} demonstrations has at most {max_tokens} tokens; raise sft.max_tokens")
    return short, len(pairs) - len(short)


@torch.no_grad()
def perplexity(policy: Policy, pairs: list[Pair], tokenizer: Tokenizer, device: torch.device) -> float:
    """exp of the mean negative log-likelihood of a response token over all `pairs`."""
    nats, tokens = 0.0, 0
    by_length = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    for start in range(0, len(by_length), 64):
        batch = to_device(collate(by_length[start : start + 64], tokenizer.pad_id), device)
        total, count = sft_loss(policy, batch)
        nats += total.item()
        tokens += int(count)
    return math.exp(nats / tokens)
