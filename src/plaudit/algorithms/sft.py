"""Supervised fine-tuning: imitate demonstrations by maximum likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from plaudit.batches import Sequences, to_device
from plaudit.data.near_copies import near_copies_in
from plaudit.data.splits import check_left_out
from plaudit.errors import DataError, TrainingError
from plaudit.maths.losses import Loss, causal_lm_loss
from plaudit.models.chat import without_refused
from plaudit.models.loading import load_causal_lm, save, window
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import Runs, Tokenizer, collate
from plaudit.records import Demonstration
from plaudit.settings import SupervisedConfig, setting
from plaudit.training import dist
from plaudit.training.engine import prepare_to_learn
from plaudit.training.metrics import StepReport
from plaudit.training.optimizer import adamw
from plaudit.training.run import Run
from plaudit.training.supervised import train_supervised
from plaudit.training.tokenizer import tokenizer_to_save

NEEDS = ()
_MOST_NATS = 700  # a token; e to the power of more is no float


@dataclass(frozen=True)
class Config(SupervisedConfig):
    """Supervised fine-tuning: train the model to imitate the training texts."""

    epochs: int = setting(2, "passes over the training data; 0 takes the model as it is", low=0)


def sft(run: Run, lm: Any = None) -> Iterator[StepReport]:
    """Fine-tune the base model on the training demonstrations, one report a step; leaves RUN/sft.

    With no epochs, or prompts alone as data, there are no steps, and RUN/sft is the base model as it is.

    Args:
        lm: the base model, if it is open already.

    Raises:
        DataError: no demonstration is short enough.
        TrainingError: a loss or gradient is not finite, or the model has become worse than a guess.
    """
    settings, data = run.config.sft, run.data
    tokenizer = tokenizer_to_save(run, run.config.model)
    lm = lm or load_causal_lm(run.config.model).to(run.device)
    longest = min(settings.max_tokens, window(lm))
    train, dropped = training_texts(run, tokenizer, longest)
    held_out, _ = tokenise(data.evaluation.demonstrations, tokenizer, longest)

    engine = prepare_to_learn(run, "sft", lm, train + held_out)
    policy = Policy(lm, engine, value_head=False).eval()
    optimizer = adamw(policy, settings.lr, settings.weight_decay)

    before = perplexity(policy, held_out, tokenizer, run.device)
    last: StepReport | None = None  # held back until it is known what training has done
    for report in train_supervised(
        run,
        "sft",
        policy,
        optimizer,
        train,
        lengths=np.array([length(pair) for pair in train]),
        collate=lambda pairs: collate(pairs, tokenizer.pad_id),
        loss=lambda batch: (sft_loss(policy, batch), {}),
        count=number_of_targets,
    ):
        if report.step < report.total:
            yield report
        else:
            last = report
    after = perplexity(policy, held_out, tokenizer, run.device)
    vocabulary = lm.get_input_embeddings().weight.shape[0]
    warning = check_perplexity(before, after, vocabulary) if held_out else ""
    if last is not None:
        yield replace(last, warnings=(*last.warnings, *filter(None, [warning])))
    engine.restore(lm, optimizer, lambda: load_causal_lm(run.config.model))
    save(lm, tokenizer, run.folder("sft"), run.config.ppo)  # sampled as PPO does
    counts = {"texts": len(train), "held_out_texts": len(held_out), "dropped": data.dropped | dropped}
    summary = counts | {"chat": tokenizer.chats, "near_copies": near_copies_in(data)}
    measured = {"perplexity_before": before, "perplexity": after}
    run.finish("sft", summary | {name: value if math.isfinite(value) else None for name, value in measured.items()})


def sft_loss(policy: Any, batch: Sequences) -> Loss:
    """Negative log-likelihood of the response tokens; the token before each predicts it, so the first has no loss."""
    mask = batch.loss_mask[:, 1:]
    logprobs, _ = policy(batch.ids, batch.attention_mask, mask)
    return causal_lm_loss(logprobs, mask)


def length(runs: Runs) -> int:
    """Tokens of a prompt and its response."""
    return sum(map(len, runs))


def number_of_targets(batch: Sequences) -> int:
    """Tokens that have a loss."""
    return int(batch.loss_mask[:, 1:].sum())


def tokenise(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[Runs], dict[str, int]]:
    """Token ids of every demonstration of at most `max_tokens`, and how many are left out by reason.

    Raises:
        DataError: all of them are.
    """
    pairs, refused = without_refused(demonstrations, lambda d: tokenizer.demonstration(d.prompt, d.response))
    short = [pair for pair in pairs if length(pair) <= max_tokens]
    if pairs and not short:
        raise DataError(f"none of {len(pairs)} demonstrations has at most {max_tokens} tokens; raise sft.max_tokens")
    return short, {"too long": len(pairs) - len(short)} | refused


def training_texts(run: Run, tokenizer: Tokenizer, max_tokens: int) -> tuple[list[Runs], dict[str, int]]:
    """What SFT learns, as `tokenise` gives it; nothing without epochs."""
    if not run.config.sft.epochs:
        return [], {"too long": 0}
    texts, dropped = tokenise(run.data.train.demonstrations, tokenizer, max_tokens)
    check_dropped(len(texts), dropped, "sft")
    return texts, dropped


def check_dropped(kept: int, dropped: Mapping[str, int], stage: str) -> str:
    """A line if 5% or more of a stage's records are left out. From 50% on they are refused with a DataError.

    Ties do not count: leaving them out is a setting.
    """
    lost = {reason: count for reason, count in dropped.items() if count and reason != "tie"}
    remedies = [f"raise {stage}.max_tokens, up to the model's window"] if "too long" in lost else []
    remedies += ["use a model with another chat template"] if lost.keys() - {"too long"} else []
    total = kept + sum(lost.values())
    return check_left_out(f"training records of {stage}", total, lost, ", ".join(remedies))


@torch.no_grad()
def perplexity(policy: Policy, pairs: list[Runs], tokenizer: Tokenizer, device: torch.device) -> float:
    """exp of the mean negative log-likelihood of a response token over all `pairs`; NaN where there are none."""
    by_length = sorted(pairs, key=length)

    def loss(start: int) -> tuple[float, int]:
        batch = to_device(collate(by_length[start : start + 64], tokenizer.pad_id), device)
        total, count = sft_loss(policy, batch)
        return total.item(), int(count)

    found = dist.each(range(0, len(by_length), 64), loss)
    tokens = sum(count for _, count in found)
    if not tokens:
        return math.nan
    nats_per_token = sum(nats for nats, _ in found) / tokens
    return math.exp(nats_per_token) if nats_per_token < _MOST_NATS else math.inf


def check_perplexity(before: float, after: float, vocabulary: int) -> str:
    """A line if SFT made the model worse, by its held-out perplexity; empty otherwise.

    Raises:
        TrainingError: it is worse than before and than a guess among all tokens.
    """
    if after <= before:
        return ""
    worse = f"SFT made the model worse: the perplexity on held-out texts went from {before:.4g} to {after:.4g}"
    if not after <= vocabulary:
        raise TrainingError(f"sft: {worse}, above that of a guess among {vocabulary:,} tokens; lower sft.lr")
    return f"{worse}; lower sft.lr or sft.epochs"
