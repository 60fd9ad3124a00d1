"""The reward model: a linear head on a copy of the SFT backbone, taught by labels or by comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit import rng
from plaudit.algorithms.calibration import summarise
from plaudit.batches import PreferenceBatch, Sequences
from plaudit.config import LORA_ALPHA, LORA_RANK, MICROBATCH_SIZE, setting
from plaudit.data.corpus import load
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.maths.losses import bradley_terry_loss, label_loss
from plaudit.models.heads import initialise_score_head, score_texts
from plaudit.models.loading import load_reward_model, load_tokenizer, save, window
from plaudit.models.lora import add_adapters
from plaudit.models.precision import halve, make_whole
from plaudit.models.states import FrozenStates, Kept
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.models.trunk import freeze_below
from plaudit.training.fit import fit
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run

_WEIGHTS = {"a": 1.0, "b": 0.0, "tie": 0.5}
Ids = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Config:
    """A score for texts, trained on labels or on comparisons."""

    epochs: int = setting(2, "passes over the training data; raise it while held-out accuracy still rises", low=1)
    batch_size: int = setting(32, "texts or comparisons in one optimizer step", unit="records", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="records", low=0)
    train_layers: int = setting(
        0,
        "train only this many layers, counted from the output, and keep the others fixed: faster, with less memory; "
        "0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1)
    lr: float = setting(5e-4, "peak learning rate of AdamW; lower it if the loss jumps", low=0, high=1)
    warmup: float = setting(
        0.05, "fraction of the steps in which the learning rate rises linearly to its peak", low=0, high=1
    )
    weight_decay: float = setting(0.01, "decoupled weight decay of AdamW; raise it against overfitting", low=0, high=1)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    max_tokens: int = setting(
        64, "longest text to train on; longer ones are left out and counted", unit="tokens", low=4
    )
    save_every: int = setting(100, "steps between checkpoints", unit="steps", low=1)


@dataclass(frozen=True)
class Judged:
    """One judgement, tokenised: a text with its label, or two texts with the preference for the first."""

    texts: tuple[Ids, ...]
    weight: float

    @property
    def length(self) -> int:
        """Tokens of the longest text."""
        return max(self._lengths)

    @property
    def longer_by(self) -> int:
        """Tokens of the text; of two, how many more the first has."""
        first, *second = self._lengths
        return first - sum(second)

    @property
    def _lengths(self) -> list[int]:
        return [len(prompt) + len(response) for prompt, response in self.texts]


def reward_model(config: Any, run: Run) -> Iterator[StepReport]:
    """Train the reward model on the training split, one report a step; leaves RUN/reward_model.

    Comparisons are used where the data has them (Bradley-Terry), labelled texts otherwise (cross-entropy).

    Raises:
        DataError: the data has neither, or nothing short enough.
        TrainingError: a loss or gradient is not finite.
    """
    settings = config.reward_model
    data = load(config.data)
    tokenizer = load_tokenizer(run.model("sft"))
    model = load_reward_model(run.model("sft"), tokenizer.pad_id).to(run.device)
    width = model.score.weight.shape
    initialise_score_head(model, rng.normals(tuple(width), config.seed, "reward_model", "head").to(run.device))
    longest = min(settings.max_tokens, window(model))
    train, too_long = judgements(data.train, tokenizer, longest)
    held_out, _ = judgements(data.evaluation, tokenizer, longest)

    depth = freeze_below(model, settings.train_layers, "reward_model.train_layers")
    add_adapters(model, settings, config.seed, "reward_model")
    model.score.requires_grad_(True)
    halve(model, run.dtype, matrices=not settings.lora_rank)

    def below(judged: list[Judged], earlier: Kept | None) -> FrozenStates:
        texts = [[*prompt, *response] for each in judged for prompt, response in each.texts]
        return FrozenStates(model, depth, texts, run.autocast, run.folder("reward_model"), earlier=earlier)

    of_sft = run.memo.pop("states", (None, None))
    states, states_held_out = below(train, of_sft[0]), below(held_out, of_sft[1])
    del of_sft  # what is of no use here is not to lie there while the model learns

    def batch_loss(rows: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        logits, weights, loss = loss_of(model, batch_of(train, rows, states, tokenizer), run)
        clear = weights != 0.5
        return loss, {"accuracy": ((logits > 0) == (weights > 0.5))[clear].float().mean().item()}

    yield from fit("reward_model", model, np.array([j.length for j in train]), batch_loss, settings, run)

    logits, said = predict(model, held_out, states_held_out, tokenizer, run)
    make_whole(model, lambda: load_reward_model(run.model("sft"), tokenizer.pad_id))
    save(model, tokenizer, run.folder("reward_model"))
    kind = "comparisons" if len(train[0].texts) == 2 else "labels"
    run.finish(
        "reward_model",
        {
            "kind": kind,
            "records": len(train),
            "dropped": data.dropped | {"too long": too_long},
            **summarise(logits, said, np.array([j.longer_by for j in held_out]), pairs=kind == "comparisons"),
        },
    )


def judgements(part: Part, tokenizer: Tokenizer, max_tokens: int) -> tuple[list[Judged], int]:
    """The split's judgements of at most `max_tokens`, and how many were longer.

    Raises:
        DataError: there is nothing to learn from.
    """
    judged = [
        Judged(
            (tokenizer.demonstration(c.prompt, c.response_a), tokenizer.demonstration(c.prompt, c.response_b)),
            _WEIGHTS[c.choice],
        )
        for c in part.comparisons
    ] or [Judged((tokenizer.demonstration("", t.text),), float(t.label)) for t in part.labelled]
    if not judged:
        raise DataError("the data has neither labels nor comparisons: a reward model needs one of them")
    short = [j for j in judged if j.length <= max_tokens]
    if not short:
        raise DataError(
            f"none of {len(judged)} judged texts has at most {max_tokens} tokens; raise reward_model.max_tokens"
        )
    return short, len(judged) - len(short)


def batch_of(
    judged: list[Judged], rows: np.ndarray, states: FrozenStates, tokenizer: Tokenizer
) -> tuple[Sequences, Tensor] | PreferenceBatch:
    """Some of the judgements, with what the frozen blocks left of their texts.

    Labelled texts as (sequences, labels (B,)); comparisons as a PreferenceBatch.
    """
    some = [judged[row] for row in rows]
    weight = torch.tensor([j.weight for j in some])
    sides = []
    for k, texts in enumerate(zip(*(j.texts for j in some), strict=True)):
        side = collate(list(texts), tokenizer.pad_id)
        places = rows * len(some[0].texts) + k  # in `states`, which has a comparison's two texts one after the other
        sides.append(dataclasses.replace(side, below=states.of(places.tolist(), side.ids)))
    return PreferenceBatch(sides[0], sides[1], weight) if len(sides) == 2 else (sides[0], weight)


def loss_of(model: Any, batch: tuple[Sequences, Tensor] | PreferenceBatch, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B,) that the text is good, or that the first is better; what people said (B,); the loss."""
    if isinstance(batch, PreferenceBatch):
        batch = batch.to(run.device)
        with run.autocast():
            chosen = score_texts(model, batch.chosen.ids, batch.chosen.attention_mask, batch.chosen.below)
            rejected = score_texts(model, batch.rejected.ids, batch.rejected.attention_mask, batch.rejected.below)
        return chosen - rejected, batch.weight, bradley_terry_loss(chosen, rejected, batch.weight)
    texts, labels = batch[0].to(run.device), batch[1].to(run.device)
    with run.autocast():
        scores = score_texts(model, texts.ids, texts.attention_mask, texts.below)
    return scores, labels, label_loss(scores, labels)


@torch.no_grad()
def predict(
    model: Any, judged: list[Judged], states: FrozenStates, tokenizer: Tokenizer, run: Run
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and what people said, for every judgement in order."""
    model.eval()
    rows = np.arange(len(judged))
    parts = [
        loss_of(model, batch_of(judged, rows[i : i + 64], states, tokenizer), run)[:2] for i in range(0, len(rows), 64)
    ]
    return tuple(torch.cat([part[k].float().cpu() for part in parts]).numpy() for k in (0, 1))  # type: ignore[return-value]
