"""The reward model: a linear head on a copy of the SFT model, trained on labels or on comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit import rng
from plaudit.algorithms.sft import check_too_long
from plaudit.batches import LabelledBatch, PreferenceBatch, number_of_rows, to_device
from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError
from plaudit.maths.losses import Loss, bradley_terry_loss, label_loss
from plaudit.maths.preferences import preference_statistics
from plaudit.models.loading import load_reward_model, save, window
from plaudit.models.policy import RewardModel, initialise_score_head
from plaudit.models.tokenizer import Runs, Tokenizer, collate
from plaudit.settings import SupervisedConfig, setting
from plaudit.training.engine import prepare_to_learn
from plaudit.training.metrics import StepReport
from plaudit.training.optimizer import adamw
from plaudit.training.run import Run
from plaudit.training.supervised import train_supervised
from plaudit.training.tokenizer import tokenizer_to_save

NEEDS = ("sft",)
_WEIGHTS = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Config(SupervisedConfig):
    """Reward model: train a score for texts on labels or on comparisons."""

    lr: float = setting(5e-4, "peak learning rate of AdamW; lower it if the loss jumps", low=0, high=1)


@dataclass(frozen=True)
class PreferenceExample:
    """One tokenised judgement: a text with its label, or two texts with the share of preference for the first."""

    texts: tuple[Runs, ...]
    weight: float

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [sum(map(len, runs)) for runs in self.texts]


def reward_model(run: Run) -> Iterator[StepReport]:
    """Train the reward model on the training split, one report a step; leaves RUN/reward_model.

    Comparisons are used where the data has them (Bradley-Terry loss), labelled texts otherwise (cross-entropy).

    Raises:
        DataError: the data has neither, or nothing short enough.
        TrainingError: a loss or gradient is not finite.
    """
    settings, data = run.config.reward_model, run.data
    tokenizer = tokenizer_to_save(run, run.model("sft"))
    classifier = new_classifier(run, tokenizer)
    longest = min(settings.max_tokens, window(classifier))
    train, held_out, too_long = judgements(data, tokenizer, longest)

    engine = prepare_to_learn(run, "reward_model", classifier, [text for e in train + held_out for text in e.texts])
    classifier.score.requires_grad_(True)
    model = RewardModel(classifier, engine).eval()
    optimizer = adamw(model, settings.lr, settings.weight_decay)

    yield from train_supervised(
        run,
        "reward_model",
        model,
        optimizer,
        train,
        lengths=np.array([max(example.lengths) for example in train]),
        collate=lambda examples: collate_examples(examples, tokenizer),
        loss=lambda batch: preference_loss(model, batch)[:2],
        count=number_of_rows,
    )
    logits, weights = predict(model, held_out, tokenizer, run.device)
    engine.restore(classifier, optimizer, lambda: load_reward_model(run.model("sft"), tokenizer.pad_id))
    save(classifier, tokenizer, run.folder("reward_model"))
    pairs, dropped = len(train[0].texts) == 2, data.dropped | {"too long": too_long}
    # Tokens of the text; of two, how many more the first has.
    differences = np.array([first - sum(second) for first, *second in (example.lengths for example in held_out)])
    summary = {"kind": "comparisons" if pairs else "labels", "records": len(train), "dropped": dropped}
    run.finish("reward_model", summary | preference_statistics(logits, weights, differences, pairs=pairs))


def new_classifier(run: Run, tokenizer: Tokenizer) -> Any:
    """The SFT model with a score head, which is drawn from the seed."""
    classifier = load_reward_model(run.model("sft"), tokenizer.pad_id).to(run.device)
    normals = rng.normals(tuple(classifier.score.weight.shape), run.config.seed, "reward_model", "head")
    initialise_score_head(classifier, normals.to(run.device))
    return classifier


def check_judged(part: Part) -> None:
    """Refuse data that has neither labels nor comparisons with a DataError."""
    if not (part.labelled or part.comparisons):
        raise DataError("the data has neither labels nor comparisons: a reward model needs one of them")


def judgements(
    data: Splits, tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[PreferenceExample], list[PreferenceExample], int]:
    """Those to train on, those held out, and how many of the first were too long.

    Raises:
        DataError: a reward model cannot learn from them, or cannot be measured on the held-out ones.
    """
    train, too_long = tokenise(data.train, tokenizer, max_tokens)
    held_out, _ = tokenise(data.evaluation, tokenizer, max_tokens)
    check_too_long(len(train), too_long, "reward_model")
    weights = {example.weight for example in train}
    if len(train[0].texts) == 1 and len(weights) == 1:
        raise DataError(
            f"{data.name}: all {len(train)} training labels are {weights.pop():g}: add texts with the other label, "
            "because a reward model learns from both"
        )
    if weights == {0.5}:
        raise DataError(f"{data.name}: all {len(train)} training comparisons are ties: add some with a preference")
    if sum(example.weight != 0.5 for example in held_out) < 2:
        raise DataError(
            f"{data.name}: fewer than 2 held-out judgements without a tie: add records, because the accuracy of the "
            "reward model is measured on them"
        )
    return train, held_out, too_long


def tokenise(part: Part, tokenizer: Tokenizer, max_tokens: int) -> tuple[list[PreferenceExample], int]:
    """The judgements of a split of at most `max_tokens` tokens a text, and how many were longer."""
    check_judged(part)
    ids = tokenizer.demonstration
    examples = [
        PreferenceExample((ids(c.prompt, c.response_a), ids(c.prompt, c.response_b)), _WEIGHTS[c.choice])
        for c in part.comparisons
    ] or [PreferenceExample((ids(t.prompt, t.text),), float(t.label)) for t in part.labelled]
    short = [example for example in examples if max(example.lengths) <= max_tokens]
    if not short:
        raise DataError(
            f"none of {len(examples)} judged texts has at most {max_tokens} tokens; raise reward_model.max_tokens"
        )
    return short, len(examples) - len(short)


def collate_examples(examples: Sequence[PreferenceExample], tokenizer: Tokenizer) -> LabelledBatch | PreferenceBatch:
    """Some judgements as a batch."""
    weight = torch.tensor([example.weight for example in examples])
    sides = [collate(texts, tokenizer.pad_id) for texts in zip(*(e.texts for e in examples), strict=True)]
    return PreferenceBatch(sides[0], sides[1], weight) if len(sides) == 2 else LabelledBatch(sides[0], weight)


def preference_loss(
    model: RewardModel, batch: LabelledBatch | PreferenceBatch
) -> tuple[Loss, dict[str, Tensor], Tensor]:
    """Cross-entropy of labels, or Bradley-Terry loss of comparisons.

    Returns:
        loss, by records; figures, in which a tie counts as half right; logits (B,), the log odds that the text is good,
        or that the first of two is preferred.
    """
    if isinstance(batch, LabelledBatch):
        logits = model(batch.texts.ids, batch.texts.attention_mask)
        loss = label_loss(logits, batch.weight)
    else:
        chosen = model(batch.chosen.ids, batch.chosen.attention_mask)
        rejected = model(batch.rejected.ids, batch.rejected.attention_mask)
        logits, loss = chosen - rejected, bradley_terry_loss(chosen, rejected, batch.weight)
    right = ((logits > 0) == (batch.weight > 0.5)).float().masked_fill(batch.weight == 0.5, 0.5)
    return loss, {"accuracy": right.sum()}, logits


@torch.no_grad()
def predict(
    model: RewardModel, examples: list[PreferenceExample], tokenizer: Tokenizer, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) logits and (N,) weights of every judgement, in order."""
    logits = []
    for start in range(0, len(examples), 64):
        batch = to_device(collate_examples(examples[start : start + 64], tokenizer), device)
        logits.append(preference_loss(model, batch)[2].float().cpu())
    return torch.cat(logits).numpy(), np.array([example.weight for example in examples], dtype=np.float32)
