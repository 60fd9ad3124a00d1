"""The reward model: a linear head on a copy of the SFT model, trained on whatever people judged.

Labels give cross-entropy, comparisons the Bradley-Terry loss, and rankings the Plackett-Luce loss.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit import rng
from plaudit.algorithms.sft import check_dropped
from plaudit.batches import JudgedBatch, number_of_rows, to_device
from plaudit.data.agreement import model_and_person, person_and_others, two_people
from plaudit.data.judgements import Judgement, judgements_of, votes_of_people
from plaudit.data.near_copies import near_copies_in
from plaudit.data.splits import Part, Splits
from plaudit.data.trivial_rules import trivial_rules
from plaudit.errors import DataError
from plaudit.maths.intervals import wilson
from plaudit.maths.losses import Loss, bradley_terry_loss, label_loss, plackett_luce_loss
from plaudit.maths.masked import unflatten
from plaudit.maths.preferences import differences, exceeds, preference_statistics, rightness, too_few
from plaudit.models.chat import without_refused
from plaudit.models.ensemble import member_folder
from plaudit.models.loading import load_reward_model, model_without_weights, save, window
from plaudit.models.policy import RewardModel, initialise_score_head
from plaudit.models.tokenizer import Runs, Tokenizer, collate
from plaudit.settings import SupervisedConfig, setting
from plaudit.training import dist, stopping
from plaudit.training.engine import prepare_to_learn
from plaudit.training.metrics import StepReport
from plaudit.training.optimizer import adamw
from plaudit.training.run import Run
from plaudit.training.supervised import member_name, train_supervised
from plaudit.training.tokenizer import tokenizer_to_save

NEEDS = ("sft",)
_TEXTS_AT_ONCE = 64  # on held-out data


@dataclass(frozen=True)
class Config(SupervisedConfig):
    """Reward model: train a score for texts on labels, comparisons or rankings."""

    lr: float = setting(5e-4, "peak learning rate of AdamW; lower it if the loss jumps", low=0, high=1)
    judgements: str = setting(
        "",
        "labels, comparisons or rankings to learn from, where they are not in --data: a file, a folder or a hub id; "
        "empty: those of --data",
    )
    ties: str = setting(
        "half",
        "half teaches that two texts which tie are equally good; drop leaves ties out",
        choices=("half", "drop"),
    )
    margin: float = setting(
        0.0,
        "weight of the margins of comparisons: the score of the better text should be higher by weight * margin; "
        "0 ignores margins",
        low=0,
    )
    members: int = setting(
        1,
        "reward models to train, each with another head and order of the data; their mean is the score, and their "
        "spread shows where it is a guess",
        low=1,
        high=32,
    )


@dataclass(frozen=True)
class PreferenceExample:
    """A judgement with the token ids of its texts."""

    judgement: Judgement
    texts: tuple[Runs, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [sum(map(len, runs)) for runs in self.texts]


def reward_model(run: Run) -> Iterator[StepReport]:
    """Train the reward model on the training split, one report a step; leaves RUN/reward_model.

    With several members, the first is in RUN/reward_model itself, and the others are in its subfolders members/2 etc.

    Raises:
        DataError: the data has no judgements, or none that it can learn from.
        TrainingError: a loss or gradient is not finite.
    """
    settings, data = run.config.reward_model, run.judged
    tokenizer = tokenizer_to_save(run, run.model("sft"))
    longest = min(settings.max_tokens, window(model_without_weights(run.model("sft"))))
    train, held_out, dropped = judgements(data, tokenizer, longest, settings.ties)
    scores = []
    for member in range(1, settings.members + 1):
        scores.append((yield from _member(run, member, tokenizer, train, held_out)))
        if member < settings.members and dist.any_rank(stopping.requested()):  # a signal in the member's last step
            stopping.stop()
    most = max(len(example.texts) for example in train)
    margins = [example.judgement.margin for example in train if example.judgement.margin]
    summary: dict[str, Any] = {
        "kind": {1: "labels", 2: "comparisons"}.get(most, "rankings"),
        "records": len(train),
        "dropped": data.dropped | dropped,
        "margins": {"records": len(margins), "mean": float(np.mean(margins or [0.0])), "weight": settings.margin},
    }
    if data is not run.data:  # which SFT has compared
        summary["near_copies"] = near_copies_in(data)
    if settings.members > 1:
        each = [statistics(train, held_out, s)["accuracy"] for s in scores]
        spread = float(np.std(scores, axis=0).mean())
        summary["members"] = {"count": settings.members, "accuracy": each, "spread_mean": spread}
    run.finish("reward_model", summary | statistics(train, held_out, np.mean(scores, axis=0), compare=True))


def _member(
    run: Run,
    member: int,
    tokenizer: Tokenizer,
    train: list[PreferenceExample],
    held_out: list[PreferenceExample],
) -> Generator[StepReport, None, np.ndarray]:
    """Train and save one member, from its newest checkpoint; returns (M,) its scores of the held-out texts."""
    settings, name = run.config.reward_model, member_name("reward_model", member)
    classifier = new_classifier(run, tokenizer, name)
    texts = [text for example in train + held_out for text in example.texts]
    engine = prepare_to_learn(run, "reward_model", classifier, texts, name)
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
        collate=lambda examples: collate_examples(examples, tokenizer, settings.margin),
        loss=lambda batch: preference_loss(model, batch),
        count=number_of_rows,
        member=member,
        members=settings.members,
    )
    scores = predict(model, held_out, tokenizer, run.device)
    engine.restore(classifier, optimizer, lambda: load_reward_model(run.model("sft"), tokenizer.pad_id))
    save(classifier, tokenizer, member_folder(run.folder("reward_model"), member))
    return scores


def new_classifier(run: Run, tokenizer: Tokenizer, name: str = "reward_model") -> Any:
    """The SFT model with a score head, which is drawn from the seed and by the name of the member."""
    classifier = load_reward_model(run.model("sft"), tokenizer.pad_id).to(run.device)
    normals = rng.normals(tuple(classifier.score.weight.shape), run.config.seed, name, "head")
    initialise_score_head(classifier, normals.to(run.device))
    return classifier


def check_judged(part: Part) -> None:
    """Refuse data that nobody has judged with a DataError."""
    judgements_of(part)


def judgements(
    data: Splits, tokenizer: Tokenizer, max_tokens: int, ties: str = "half"
) -> tuple[list[PreferenceExample], list[PreferenceExample], dict[str, int]]:
    """Those to train on, those held out, and how many of the first are left out, by reason.

    Raises:
        DataError: a reward model cannot learn from them, or cannot be measured on the held-out ones.
    """
    train, dropped = tokenise(data.train, tokenizer, max_tokens, ties)
    held_out, _ = tokenise(data.evaluation, tokenizer, max_tokens, ties)
    weights = {example.judgement.weight for example in train}
    if weights <= {0.5} and max((len(example.texts) for example in train), default=2) == 2:
        number = len(train) + dropped.get("tie", 0)
        raise DataError(f"{data.name}: all {number} training comparisons are ties: add some with a preference")
    check_dropped(len(train), dropped, "reward_model")
    if len(train[0].texts) == 1 and len(weights) == 1:
        raise DataError(
            f"{data.name}: all {len(train)} training labels are {weights.pop():g}: add texts with the other label, "
            "because a reward model learns from both"
        )
    for some, where in ((train, "training"), (held_out, "held-out")):
        if sum(example.judgement.weight != 0.5 for example in some) < 2:
            raise DataError(
                f"{data.name}: fewer than 2 {where} judgements without a tie: add records, because a reward model "
                "learns from the first kind, and its accuracy is measured on the second"
            )
    return train, held_out, dropped


def tokenise(
    part: Part, tokenizer: Tokenizer, max_tokens: int, ties: str = "half", stage: str = "reward_model"
) -> tuple[list[PreferenceExample], dict[str, int]]:
    """The judgements of a split of at most `max_tokens` tokens a text, and how many are left out by reason.

    A judgement with a longer text, or with one that the chat template refuses, is left out as a whole, because nothing
    may be cut off in which two texts differ.
    """
    ids = tokenizer.demonstration
    found = judgements_of(part)
    kept = [j for j in found if not (ties == "drop" and len(j.texts) == 2 and j.weight == 0.5)]
    examples, refused = without_refused(
        kept, lambda j: PreferenceExample(j, tuple(ids(j.prompt, text) for text in j.texts))
    )
    short = [example for example in examples if max(example.lengths) <= max_tokens]
    if examples and not short:
        raise DataError(
            f"none of {len(examples)} judged texts has at most {max_tokens} tokens; raise {stage}.max_tokens"
        )
    dropped = {"too long": len(examples) - len(short)} | refused
    return short, dropped | ({"tie": len(found) - len(kept)} if ties == "drop" else {})


def collate_examples(examples: Sequence[PreferenceExample], tokenizer: Tokenizer, margin: float = 0.0) -> JudgedBatch:
    """Some judgements as a batch; `margin` is the weight of their margins."""
    flat = collate([text for example in examples for text in example.texts], tokenizer.pad_id)
    sizes = torch.tensor([len(example.texts) for example in examples])
    present = torch.arange(int(sizes.max())) < sizes[:, None]
    shape = (*present.shape, flat.ids.shape[1])
    ids = torch.full(shape, tokenizer.pad_id).masked_scatter(present[..., None], flat.ids)
    mask = torch.zeros(shape, dtype=torch.bool).masked_scatter(present[..., None], flat.attention_mask)
    weight, margins = zip(*((e.judgement.weight, margin * e.judgement.margin) for e in examples), strict=True)
    return JudgedBatch(ids, mask, torch.tensor(weight), torch.tensor(margins))


def text_scores(model: RewardModel, batch: JudgedBatch) -> Tensor:
    """(B, K) the score of every text; zero where there is none."""
    present = batch.present
    return unflatten(model(batch.ids[present], batch.attention_mask[present]), present)


def preference_loss(model: RewardModel, batch: JudgedBatch) -> tuple[Loss, dict[str, Tensor]]:
    """Cross-entropy of labels, Bradley-Terry loss of two texts, Plackett-Luce loss of more.

    Returns:
        loss, by records; figures, in which a tie counts as half right, and a ranking as the share of its pairs.
    """
    scores, present = text_scores(model, batch), batch.present
    most = present.shape[1]
    if most == 1:
        loss, gaps, counted = label_loss(scores[:, 0], batch.weight), scores, present
    else:
        two = present.sum(1) == 2
        pairs, n = bradley_terry_loss(scores[two, 0], scores[two, 1], batch.weight[two], batch.margin[two])
        rankings, m = plackett_luce_loss(scores[~two], present[~two])
        loss = pairs + rankings, n + m
        first, second = torch.triu_indices(most, most, offset=1, device=scores.device)
        gaps, counted = scores[:, first] - scores[:, second], present[:, second]
    weight = batch.weight[:, None]
    right = ((gaps > 0) == (weight > 0.5)).float().masked_fill(weight == 0.5, 0.5)
    return loss, {"accuracy": (right.masked_fill(~counted, 0.0).sum(1) / counted.sum(1)).sum()}


@torch.no_grad()
def predict(
    model: RewardModel, examples: list[PreferenceExample], tokenizer: Tokenizer, device: torch.device
) -> np.ndarray:
    """(M,) the score of every text of the judgements, in order."""
    at_once = max(1, _TEXTS_AT_ONCE // max(len(example.texts) for example in examples))

    def scores(start: int) -> np.ndarray:
        batch = to_device(collate_examples(examples[start : start + at_once], tokenizer), device)
        return text_scores(model, batch)[batch.present].float().cpu().numpy()

    return np.concatenate(dist.each(range(0, len(examples), at_once), scores))


def statistics(
    train: list[PreferenceExample], held_out: list[PreferenceExample], scores: np.ndarray, *, compare: bool = False
) -> dict[str, Any]:
    """How well scores (M,) of the held-out texts predict what people judged.

    With `compare`, also what trivial rules reach, how often people agree where several have judged, and warnings.
    """
    sizes = [len(example.texts) for example in held_out]
    logits, of = differences(scores, sizes)
    labels = np.array([example.judgement.weight for example in held_out], dtype=np.float32)[of]
    lengths, _ = differences(np.array([n for example in held_out for n in example.lengths]), sizes)
    found = preference_statistics(logits, labels, lengths, max(sizes) > 1, of)
    if not compare:
        return found
    right, asked = rightness(logits, labels, of), [example.judgement for example in held_out]
    rules = trivial_rules([example.judgement for example in train], asked)
    best = max(rules, key=lambda name: rules[name].mean())
    votes, gaps = votes_of_people(asked, scores)
    warnings = []
    if max(sizes) > 1 and (line := too_few(right, len(train))):
        warnings.append(line)
    if not exceeds(right, rules[best]):
        warnings.append(
            f"the reward model is right about {right.mean():.1%} of {len(right)} held-out judgements, and the rule "
            f"'{best}' about {rules[best].mean():.1%}: beyond noise it is no better than this rule; give more or "
            "cleaner judgements, or a larger model"
        )
    return found | {
        "trivial_rules": {
            name: {"accuracy": float(of_rule.mean()), "accuracy_ci95": wilson(round(of_rule.sum()), len(of_rule))}
            for name, of_rule in rules.items()
        },
        "best_rule": best,
        "people": {
            "pairs": len(votes),
            "two_people": two_people(votes),
            "person_and_others": person_and_others(votes),
            "model_and_person": model_and_person(gaps, votes),
        }
        if len(votes)
        else None,
        "warnings": warnings,
    }
