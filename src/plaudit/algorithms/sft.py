"""Supervised fine-tuning: imitate demonstrations by maximum likelihood."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plaudit.batches import Sequences
from plaudit.config import LORA_ALPHA, LORA_RANK, MICROBATCH_SIZE, setting
from plaudit.data.corpus import load
from plaudit.errors import DataError
from plaudit.maths.losses import causal_lm_loss
from plaudit.models.heads import logprobs_of, response_states
from plaudit.models.loading import load_causal_lm, load_tokenizer, save, window
from plaudit.models.lora import add_adapters
from plaudit.models.precision import halve, make_whole
from plaudit.models.states import FrozenStates
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.models.trunk import freeze_below, frozen_blocks
from plaudit.records import Demonstration
from plaudit.training.fit import fit
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run

Pair = tuple[list[int], list[int]]


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


def sft(config: Any, run: Run) -> Iterator[StepReport]:
    """Fine-tune the model on the training demonstrations, one report a step; leaves RUN/sft.

    Raises:
        DataError: no demonstration is short enough.
        TrainingError: a loss or gradient is not finite.
    """
    settings = config.sft
    data = load(config.data)
    tokenizer = load_tokenizer(config.model)
    model = load_causal_lm(config.model).to(run.device)
    longest = min(settings.max_tokens, window(model))
    train, too_long = tokenise(data.train.demonstrations, tokenizer, longest)
    held_out, _ = tokenise(data.evaluation.demonstrations, tokenizer, longest)

    depth = freeze_below(model, settings.train_layers, "sft.train_layers")
    add_adapters(model, settings, config.seed, "sft")
    shared = depth and not data.train.comparisons  # the reward model will read the same texts
    pass_on = frozen_blocks(model, config.reward_model.train_layers, "reward_model.train_layers") if shared else 0
    halve(model, run.dtype, matrices=not settings.lora_rank)

    def below(pairs: list[Pair]) -> FrozenStates:
        texts = [[*prompt, *response] for prompt, response in pairs]
        return FrozenStates(model, depth, texts, run.autocast, run.folder("sft"), pass_on)

    states, states_held_out = below(train), below(held_out)

    def batch_loss(rows: np.ndarray) -> tuple[torch.Tensor, dict[str, float]]:
        return loss_of(model, batch_of(train, rows.tolist(), states, tokenizer).to(run.device), run), {}

    before = perplexity(model, held_out, states_held_out, tokenizer, run)
    lengths = np.array([len(prompt) + len(response) for prompt, response in train])
    yield from fit("sft", model, lengths, batch_loss, settings, run)

    after = perplexity(model, held_out, states_held_out, tokenizer, run)
    run.memo["states"] = states.passed_on, states_held_out.passed_on
    make_whole(model, lambda: load_causal_lm(config.model))
    save(model, tokenizer, run.folder("sft"))
    run.finish(
        "sft",
        {
            "texts": len(train),
            "held_out_texts": len(held_out),
            "dropped": data.dropped | {"too long": too_long},
            "perplexity_before": before,
            "perplexity": after,
        },
    )


def batch_of(pairs: list[Pair], rows: Sequence[int], states: FrozenStates, tokenizer: Tokenizer) -> Sequences:
    """Some of the pairs, with what the frozen blocks left of them."""
    batch = collate([pairs[row] for row in rows], tokenizer.pad_id)
    return dataclasses.replace(batch, below=states.of(rows, batch.ids))


def loss_of(model: Any, batch: Sequences, run: Run) -> torch.Tensor:
    """Mean nats a response token; every position but the first is predicted by the one before it."""
    tokens, mask = batch.ids[:, 1:], batch.loss_mask[:, 1:]
    with run.autocast():
        states = response_states(model, batch.ids, batch.attention_mask, mask, batch.below)
    return causal_lm_loss(logprobs_of(model, states, tokens[mask]))


def tokenise(
    demonstrations: tuple[Demonstration, ...], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[Pair], int]:
    """(prompt ids, response ids) of every demonstration of at most `max_tokens`, and how many were longer.

    Raises:
        DataError: none is short enough.
    """
    pairs = [tokenizer.demonstration(d.prompt, d.response) for d in demonstrations]
    short = [p for p in pairs if len(p[0]) + len(p[1]) <= max_tokens]
    if not short:
        raise DataError(f"none of {len(pairs)} demonstrations has at most {max_tokens} tokens; raise sft.max_tokens")
    return short, len(pairs) - len(short)


@torch.no_grad()
def perplexity(model: Any, pairs: list[Pair], states: FrozenStates, tokenizer: Tokenizer, run: Run) -> float:
    """exp of the mean nats a response token over all `pairs`."""
    model.eval()
    nats, tokens = 0.0, 0
    by_length = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
    for start in range(0, len(by_length), 64):
        batch = batch_of(pairs, by_length[start : start + 64], states, tokenizer).to(run.device)
        count = int(batch.loss_mask[:, 1:].sum().item())
        nats += loss_of(model, batch, run).item() * count
        tokens += count
    return math.exp(nats / tokens)
