"""A preflight check, and those that take one step of training on a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from plaudit.algorithms.reward_model import collate_examples, new_classifier, preference_loss, text_scores, tokenise
from plaudit.algorithms.sft import length, number_of_targets, sft_loss
from plaudit.batches import number_of_rows, to_device
from plaudit.data.splits import Part
from plaudit.errors import DataError, TrainingError
from plaudit.maths.masked import float64
from plaudit.models.chat import without_refused
from plaudit.models.fast.precision import MASTER
from plaudit.models.loading import window
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import collate
from plaudit.training.engine import choose_engine, prepare_to_learn
from plaudit.training.models import Models
from plaudit.training.optimizer import BatchLoss, accumulate, adamw, step
from plaudit.training.rollouts import Objective, ScoreScale, generate, score_rollout
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

ENGINE = "engine against the model's own forward pass"
ROWS = 16  # prompts or texts of the checks; each prompt is answered once
_LR = 1e-3  # of the step that is tried: large enough to be seen in bfloat16
_LENGTH_BIAS = 0.3  # correlation of score and length at which length explains a tenth of the score
_MOVED = 1e-5  # change of the ratio after the step, on average: more than float32 explains


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    figure: str  # what was found
    advice: str  # what to do when it is not ok
    stops: bool = True  # whether training must not start; otherwise the check is a warning
    amount: float | None = None  # the figure as a number, where the run is compared with it later

    @property
    def mark(self) -> str:
        """ok, WARN, or FAIL where training must not start."""
        return "ok" if self.ok else "FAIL" if self.stops else "WARN"

    @property
    def line(self) -> str:
        """The check in one line, with the advice where it is not ok."""
        return f"{self.name}: {self.figure}" + ("" if self.ok else f"; {self.advice}")


def objective_of(stage: str) -> Objective:
    """What an algorithm that trains a policy makes of a rollout."""
    return import_module(f"plaudit.algorithms.{stage}").OBJECTIVE


@dataclass(frozen=True)
class Training:
    """A copy of what a stage trains, and a batch that it could learn from."""

    model: Any
    batch: Any
    loss: BatchLoss
    count: int
    outputs: Callable[[], torch.Tensor]  # log-probabilities of the tokens of the batch


def training_of_sft(run: Run, models: Models) -> Training | None:
    """None where the first demonstrations are all too long, or nothing is trained."""
    settings, lm, tokenizer = run.config.sft, copy.deepcopy(models.policy.lm), models.tokenizer
    some = run.data.train.demonstrations[: 16 * ROWS if settings.epochs else 0]
    pairs, _ = without_refused(some, lambda d: tokenizer.demonstration(d.prompt, d.response))
    pairs = [p for p in pairs if length(p) <= min(settings.max_tokens, window(lm))][: min(ROWS, settings.batch_size)]
    if not pairs:
        return None
    policy = Policy(lm, prepare_to_learn(run, "sft", lm, pairs), value_head=False).eval()
    batch = to_device(collate(pairs, tokenizer.pad_id), run.device)
    mask = batch.loss_mask[:, 1:]
    return Training(
        policy,
        batch,
        lambda part: (sft_loss(policy, part), {}),
        number_of_targets(batch),
        lambda: policy(batch.ids, batch.attention_mask, mask)[0][mask],
    )


def training_of_reward_model(run: Run) -> Training | None:
    """None where the first judgements are all left out."""
    settings, train, most = run.config.reward_model, run.judged.train, 16 * ROWS
    tokenizer = open_tokenizer(run, run.model("sft"))
    classifier = new_classifier(run, tokenizer)
    some = Part(train.labelled[:most], comparisons=train.comparisons[:most], rankings=train.rankings[:most])
    try:
        examples, _ = tokenise(some, tokenizer, min(settings.max_tokens, window(classifier)), settings.ties)
    except DataError:
        return None
    if not examples:  # ties
        return None
    examples = examples[: min(ROWS, settings.batch_size)]
    engine = prepare_to_learn(run, "reward_model", classifier, [text for e in examples for text in e.texts])
    classifier.score.requires_grad_(True)
    model = RewardModel(classifier, engine).eval()
    batch = to_device(collate_examples(examples, tokenizer, settings.margin), run.device)
    return Training(
        model,
        batch,
        lambda part: preference_loss(model, part),
        number_of_rows(batch),
        lambda: text_scores(model, batch),
    )


def of_reward_model(run: Run, most: float) -> Iterator[Check]:
    """A new reward model: its scores by the engine and by its own forward pass, and a step of training.

    Args:
        most: by which the scores may differ.
    """
    training = training_of_reward_model(run)
    if training is None:
        return
    plain = RewardModel(training.model.classifier, PlainEngine(run.dtype))
    with torch.no_grad():
        gap = (training.outputs() - text_scores(plain, training.batch)).abs().max().item()
    advice = "use engine = plain" if not isinstance(training.model.engine, PlainEngine) else "use another model"
    check = Check(ENGINE, gap < most, f"scores differ by at most {gap:.1g}", advice)
    yield check
    if check.ok:
        yield from one_step(run, "reward_model", training, torch.nn.Module())


def training_of_policy(run: Run, stage: str, models: Models, prompts: list[list[int]], noise: torch.Tensor) -> Training:
    """The scores are made up, so that every response has something to be learned from."""
    settings, objective = getattr(run.config, stage), objective_of(stage)
    shared = [p for p in models.policy.parameters() if not p.requires_grad]
    policy = copy.deepcopy(models.policy, {id(x): x for x in (models.engine, *shared)})
    policy.engine = choose_engine(run, stage, policy.lm)
    policy.engine.prepare(policy.lm)
    rows, group = min(len(prompts), settings.minibatch_size), getattr(settings, "group_size", 1)
    chosen = np.arange(max(group, rows - rows % group)) % len(prompts)
    prompts, noise = [prompts[row] for row in chosen], noise[chosen]
    responses = generate(policy, prompts, noise, models.tokenizer, settings.temperature)
    raw = torch.linspace(-1, 1, len(prompts), device=run.device)
    scale = ScoreScale(0.0, 1.0, settings.missing_eos_penalty)
    rollout, states = score_rollout(policy, models.reference, responses, raw, scale, settings.temperature)
    batch = objective.batch(policy, rollout, states, getattr(settings, "kl_coef", 0.0), settings)
    inputs, mask = (responses.ids, responses.attention_mask, responses.response_mask), responses.response_mask
    return Training(
        policy,
        batch,
        lambda part: objective.loss(policy, part, settings),
        objective.count(batch, settings),
        lambda: policy(*inputs, settings.temperature)[0][mask],
    )


def one_step(run: Run, stage: str, training: Training, reference: Any) -> Iterator[Check]:
    """One step of training, or two with LoRA, whose first leaves the inner matrices as they are."""
    settings, model = getattr(run.config, stage), training.model
    optimizer = adamw(model, _LR)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def weights(p: torch.Tensor) -> torch.Tensor:
        return optimizer.state[p].get(MASTER, p).detach()

    def sums() -> list[torch.Tensor]:
        others = [p for p in (*model.parameters(), *reference.parameters()) if not p.requires_grad]
        places = ((p.detach(), "cpu" if p.device.type == "mps" else p.device) for p in others)  # it has no float64
        return [p.to(place).sum(dtype=torch.float64) for p, place in places]

    with torch.no_grad():
        outputs = training.outputs()
    before, fixed = {name: weights(p).clone() for name, p in learned.items()}, sums()
    reached: set[str] = set()
    try:
        for _ in range(2 if settings.lora_rank else 1):
            where = f"a step of {stage}"
            accumulate(training.batch, settings.microbatch_size, training.loss, training.count, where, model)
            # The bias of a key has no gradient but rounding: the softmax over keys does not see it.
            reached |= {name for name, p in learned.items() if p.grad is not None}
            step(optimizer, model, settings.max_grad_norm, where)
    except TrainingError as error:
        yield Check("loss and gradients", False, str(error), "look at the model's weights and at the data")
        return
    yield Check("loss and gradients", True, "finite in a step of training", "")
    moved = {name for name, p in learned.items() if not torch.equal(weights(p), before[name])}
    still = [name for name in learned if name not in reached or (name not in moved and "bias" not in name)]
    found = f"{len(learned) - len(still)} of {len(learned)} weights move in a step of training"
    found += f"; '{still[0]}' does not" if still else ""
    advice = "the model's forward pass does not use them, or cuts their gradient off; report this with its name"
    yield Check("weights that learn", not still, found, advice, stops=not moved)
    same = all(torch.equal(a, b) for a, b in zip(fixed, sums(), strict=True))
    found = f"{'as' if same else 'not as'} before a step of training"
    yield Check("frozen weights and reference", same, found, "training changes weights that must stay as they are")
    with torch.no_grad():
        change = ((training.outputs() - outputs).exp() - 1).abs().mean().item()
    found = f"{change:.1g} from 1 on average"
    yield Check("ratio after a step", change > _MOVED, found, "the step does not reach the forward pass")


def draws_outside(logits: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor) -> float:
    """Mean distance of the random numbers (N,) from the shares of [0, 1) that logits (N, V) give the tokens (N,)."""
    shares = torch.softmax(float64(logits), dim=-1)
    tokens, noise = tokens.to(shares.device), noise.to(shares.device)
    rows = torch.arange(len(tokens), device=shares.device)
    upper = shares.cumsum(-1)[rows, tokens]
    lower = upper - shares[rows, tokens]
    return torch.maximum(lower - noise, noise - upper).clamp(min=0).mean().item()


def checks_of_reward_model(summary: dict[str, Any]) -> Iterator[Check]:
    """What the reward model's training found on held-out judgements."""
    low, high = summary.get("accuracy_ci95", (0.0, 1.0))
    found = f"{low:.1%} to {high:.1%} on {summary['held_out']} held-out judgements (95% interval)"
    advice = "PPO would optimise noise: give more or cleaner judgements, or raise reward_model.epochs"
    yield Check("accuracy of the reward model", low > 0.5, found, advice, False)
    rules, warnings = summary.get("trivial_rules", {}), summary.get("warnings", [])
    if best := summary.get("best_rule"):
        found = f"{summary['accuracy']:.1%} of held-out judgements; '{best}' reaches {rules[best]['accuracy']:.1%}"
        advice = "beyond noise it is no better than this rule: give more or cleaner judgements, or a larger model"
        yield Check("reward model against trivial rules", not warnings, found, advice, False)
    slope = summary.get("length_correlation", 0.0)
    advice = "PPO may change the length instead of the content: balance the lengths of good and bad texts"
    found = f"score and length correlate at {slope:+.2f}"
    yield Check("length bias of the reward model", abs(slope) <= _LENGTH_BIAS, found, advice, False)
