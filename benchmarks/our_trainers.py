"""plaudit's training on each task of `tasks.py`, with the functions that its commands call."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import tasks
from benchmarks.contender import WARM_UP, Stopwatch, device_of, print_record, start_trainer, trainer_record
from benchmarks.workload import Workload, saved_models
from plaudit import rng
from plaudit.algorithms import dpo, grpo, reward_model, rloo, sft
from plaudit.batches import number_of_rows
from plaudit.cli.process import keep_freed_memory
from plaudit.config import build
from plaudit.data.judgements import Judgement
from plaudit.models.loading import load_causal_lm, load_reward_model
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import Runs, Tokenizer, collate
from plaudit.training.engine import prepare_to_learn
from plaudit.training.models import Models
from plaudit.training.offline import nats_of
from plaudit.training.optimizer import BatchLoss, accumulate, adamw, step, update
from plaudit.training.rollouts import ScoreScale, generate, score_rollout
from plaudit.training.run import Run

OBJECTIVES = {"grpo": grpo.OBJECTIVE, "rloo": rloo.OBJECTIVE}


class Learner(NamedTuple):
    """A model and what it takes to train it on records, as in `train_supervised`."""

    model: Any
    batches: list[list[Any]]  # examples of each optimizer step
    collate: Callable[[Sequence[Any]], Any]
    loss: BatchLoss
    count: Callable[[Any], int]


def policy_of(run: Run, stage: str, folder: str) -> Policy:
    """The policy in a folder, ready to learn."""
    lm = load_causal_lm(folder).to(run.device)
    return Policy(lm, prepare_to_learn(run, stage, lm), value_head=False).eval()


def imitation(run: Run, task: tasks.Task, folder: str, watch: Stopwatch) -> Learner:
    """SFT on texts."""
    policy = policy_of(run, "sft", folder)
    batches = [[text for (text,) in records] for records in runs(task)]
    loss = partial(sft.sft_loss, policy)
    return Learner(
        policy, batches, lambda texts: collate(texts, task.pad_id), lambda batch: (loss(batch), {}),
        sft.number_of_targets,
    )  # fmt: skip


def comparison(run: Run, task: tasks.Task, folder: str, watch: Stopwatch) -> Learner:
    """A reward model on pairs."""
    classifier = load_reward_model(folder, task.pad_id).to(run.device)
    model = RewardModel(classifier, prepare_to_learn(run, "reward_model", classifier)).eval()
    classifier.score.requires_grad_(True)
    tokenizer, judgement = Tokenizer(None, None, task.eos_id, task.pad_id), Judgement("", ("", ""))
    batches = [[reward_model.PreferenceExample(judgement, texts) for texts in records] for records in runs(task)]
    return Learner(
        model, batches, lambda examples: reward_model.collate_examples(examples, tokenizer),
        partial(reward_model.preference_loss, model), number_of_rows,
    )  # fmt: skip


def preference(run: Run, task: tasks.Task, folder: str, watch: Stopwatch) -> Learner:
    """DPO on pairs. Computes the log-probabilities of all of them under the reference, which is the policy itself."""
    policy, settings, records = policy_of(run, "dpo", folder), run.config.dpo, runs(task)
    texts = [text for batch in records for pair in batch for text in pair]
    watch.start()
    nats = iter(nats_of(policy, texts, task.pad_id, run.device, settings.temperature))
    watch.lap("reference")
    batches = [[dpo.Pair(pair, 1.0, (next(nats), next(nats))) for pair in batch] for batch in records]
    return Learner(
        policy, batches, lambda pairs: dpo.collate_pairs(pairs, task.pad_id),
        lambda batch: dpo.pair_loss(policy, batch, settings), number_of_rows,
    )  # fmt: skip


def runs(task: tasks.Task) -> list[list[tuple[Runs, ...]]]:
    """The batches of a task, with ids as the tokenizer gives them."""
    return [[tuple((list(a), list(b)) for a, b in record) for record in batch] for batch in task.batches]


def train_on_records(run: Run, task: tasks.Task, folders: tuple[str, str], watch: Stopwatch) -> None:
    """One optimizer step for each batch."""
    stage, open_learner = LEARNERS[task.name]
    settings = getattr(run.config, stage)
    learner = open_learner(run, task, folders[stage == "reward_model"], watch)
    optimizer = adamw(learner.model, settings.lr, settings.weight_decay)
    for number, examples in enumerate(learner.batches):
        watch.start()
        batch, where = learner.collate(examples), f"step {number + 1}"
        accumulate(batch, settings.microbatch_size, learner.loss, learner.count(batch), where, learner.model)
        step(optimizer, learner.model, settings.max_grad_norm, where)
        watch.lap("training")


def train_on_rollouts(run: Run, work: Workload, name: str, folder: str, watch: Stopwatch, updates: int) -> None:
    """Sample, score and learn, some updates of as many optimizer steps as the workload has."""
    settings, objective = getattr(run.config, name), OBJECTIVES[name]
    models = Models.of(run, name, folder, folder, None, Tokenizer(None, None, work.eos_id, 0), value_head=False)
    policy, asked = models.policy, [list(prompt) for prompt in tasks.prompts(work)]
    optimizer = adamw(policy, settings.lr, eps=1e-5)
    for number in range(updates):
        watch.start()
        # Below a half of the cumulative distribution, so never the end token, which is the last of the vocabulary.
        noise = 0.5 * rng.uniforms(range(len(asked)), work.longest, run.config.seed, name, number, "responses", 0)
        responses = generate(policy, asked, noise, models.tokenizer, settings.temperature)
        raw = torch.tensor([tasks.distinct_tokens(ids) for ids in responses.tokens()])
        scale = ScoreScale.measured(raw, settings.missing_eos_penalty)
        rollout, states = score_rollout(policy, models.reference, responses, raw, scale, settings.temperature)
        batch = objective.batch(policy, rollout, states, settings.kl_coef, settings)
        epochs = range(number * settings.epochs, (number + 1) * settings.epochs)
        stats = update(
            policy,
            optimizer,
            batch,
            loss=lambda minibatch: objective.loss(policy, minibatch, settings),
            count=lambda minibatch: objective.count(minibatch, settings),
            settings=settings,
            orders=[rng.permutation(settings.batch_size, run.config.seed, name, epoch) for epoch in epochs],
            where=f"update {number + 1}",
        )
        watch.lap("training")
        assert stats["optimizer_steps"] == work.optimizer_steps
        assert responses.response_mask.sum() == len(asked) * work.longest


LEARNERS = {
    "sft": ("sft", imitation),
    "sft-packed": ("sft", imitation),
    "reward-model": ("reward_model", comparison),
    "dpo": ("dpo", preference),
}


def settings_of(options: argparse.Namespace, work: Workload) -> dict[str, Any]:
    """What `config.build` is given."""
    stage = options.task if options.task in tasks.SAMPLED else LEARNERS[options.task][0]
    own: dict[str, Any] = {"train_layers": options.train_layers}
    if options.task in tasks.SAMPLED:
        own |= {
            "batch_size": len(tasks.prompts(work)), "minibatch_size": work.minibatch_size, "epochs": work.epochs,
            "group_size": tasks.GROUP, "max_new_tokens": work.longest, "temperature": work.temperature,
            "kl_coef": tasks.KL_COEF[options.task], "lr": work.lr, "max_grad_norm": work.max_grad_norm,
        }  # fmt: skip
    else:
        own |= {"batch_size": options.batch, "max_tokens": tasks.LONGEST, "lr": work.lr}
    own |= {"temperature": work.temperature} if options.task == "dpo" else {}
    shared = {"device": options.device, "dtype": options.dtype, "engine": options.engine, "seed": work.seed}
    return shared | {f"{stage}.{name}": value for name, value in own.items()}


def main(argv: list[str] | None = None) -> None:
    """Time some steps or updates of one task and print the record."""
    options, work = start_trainer(
        __doc__ or "",
        argv,
        train_layers={"type": int, "default": 0, "help": "train the top layers only; 0: all"},
        engine={"choices": ("auto", "plain", "fast"), "default": "auto", "help": "how plaudit runs the models"},
    )
    keep_freed_memory()  # as the command line does
    run = Run(Path(options.work) / "ours", build(settings_of(options, work)))
    folders, watch = saved_models(work, Path(options.work)), Stopwatch(device_of(options), options.clock)
    if options.task in tasks.SAMPLED:
        train_on_rollouts(run, work, options.task, folders[0], watch, WARM_UP + options.updates)
        tokens = [len(tasks.prompts(work)) * work.longest] * len(watch.updates)
    else:
        task = tasks.make(options.task, work.size, Path(options.data), WARM_UP + options.steps, options.batch)
        train_on_records(run, task, folders, watch)
        tokens = task.tokens()
    trains = f"top {options.train_layers} layers" if options.train_layers else "all parameters"
    print_record(trainer_record("plaudit", watch, tokens, work, options, optimizer="AdamW", trains=trains))
    shutil.rmtree(run.path, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
