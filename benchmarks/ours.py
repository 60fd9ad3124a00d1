"""plaudit's PPO update on the benchmark's workload, with the functions that `plaudit ppo` calls."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from benchmarks.contender import WARM_UP, Stopwatch, device_of, print_record, record, start
from benchmarks.workload import Workload, reward_model_on_frozen_layers, saved_models
from plaudit import rng
from plaudit.algorithms.ppo import compute_advantages, number_of_tokens, ppo_loss, rollout_values
from plaudit.cli.process import keep_freed_memory
from plaudit.config import build
from plaudit.models.tokenizer import Tokenizer
from plaudit.rewards import ModelReward
from plaudit.training.models import Models
from plaudit.training.optimizer import adamw, update
from plaudit.training.rollouts import ScoreScale, generate, score_rollout
from plaudit.training.run import Run


def forced_noise(work: Workload) -> torch.Tensor:
    """(B, R) random numbers with which every response ends at its length.

    A token is drawn by inverting the cumulative distribution, and the end token is the last one of the vocabulary. So 1
    draws the end token, and a number below 0.5 does not, unless the end token is more likely than all others together.
    """
    noise = 0.5 * torch.rand(
        len(work.prompts), work.longest, dtype=torch.float64, generator=torch.Generator().manual_seed(work.seed)
    )
    for row, length in zip(noise, work.lengths, strict=True):
        row[length - 1] = 1.0
    return noise


def main(argv: list[str] | None = None) -> None:
    """Time some updates and print the record."""
    options, work = start(
        __doc__ or "",
        argv,
        train_layers={"type": int, "default": 0, "help": "train the top layers only; 0: all"},
        lora={"type": int, "default": 0, "help": "rank of the LoRA matrices; 0: no LoRA"},
        engine={"choices": ("auto", "plain", "fast"), "default": "auto", "help": "how plaudit runs the models"},
    )
    keep_freed_memory()  # as the command line does
    policy, reward = saved_models(work, Path(options.work))
    if options.train_layers:  # a reward model trained on the same frozen layers
        reward = reward_model_on_frozen_layers(policy, reward, options.train_layers)
    config = build(
        {
            "device": options.device, "dtype": options.dtype, "engine": options.engine, "seed": work.seed,
            "ppo.train_layers": options.train_layers, "ppo.lora_rank": options.lora,
            "ppo.batch_size": len(work.prompts), "ppo.minibatch_size": work.minibatch_size,
            "ppo.epochs": work.epochs, "ppo.max_new_tokens": work.longest, "ppo.temperature": work.temperature,
            "ppo.lr": work.lr, "ppo.kl_coef": work.kl_coef, "ppo.gamma": work.gamma, "ppo.lam": work.lam,
            "ppo.clip_range": work.clip_range, "ppo.value_clip": work.value_clip,
            "ppo.value_coef": work.value_coef, "ppo.max_grad_norm": work.max_grad_norm,
        }
    )  # fmt: skip
    settings = config.ppo
    run = Run(Path(options.work) / "ours", config)
    models = Models.of(run, "ppo", policy, policy, reward, Tokenizer(None, None, work.eos_id, 0), value_head=True)
    learner = models.policy
    optimizer = adamw(learner, settings.lr, eps=1e-5)
    noise, prompts = forced_noise(work), [list(p) for p in work.prompts]
    watch = Stopwatch(device_of(options))
    for number in range(WARM_UP + options.updates):
        watch.start()
        responses = generate(learner, prompts, noise, models.tokenizer, settings.temperature)
        watch.lap("generation")
        assert responses.response_mask.sum(1).tolist() == list(work.lengths), "a response ended early: fewer updates"
        raw = ModelReward(models.reward_model)(responses)
        scale = ScoreScale.measured(raw, settings.missing_eos_penalty)
        rollout, states = score_rollout(learner, models.reference, responses, raw, scale, settings.temperature)
        values = rollout_values(learner, states, rollout)
        batch = compute_advantages(rollout, values, settings.kl_coef, settings.gamma, settings.lam)
        watch.lap("scoring")
        epochs = range(number * settings.epochs, (number + 1) * settings.epochs)
        stats = update(
            learner,
            optimizer,
            batch,
            loss=lambda minibatch: ppo_loss(learner, minibatch, settings),
            count=number_of_tokens,
            settings=settings,
            orders=[rng.permutation(settings.batch_size, config.seed, "ppo", epoch) for epoch in epochs],
            where=f"update {number + 1}",
        )
        watch.lap("training")
        assert stats["optimizer_steps"] == work.optimizer_steps
    trains = f"top {options.train_layers} layers" if options.train_layers else "all parameters"
    if options.lora:
        trains = f"LoRA of rank {options.lora}"
    name = "plaudit" if trains == "all parameters" else f"plaudit, {trains}"
    name += ", plain engine" if options.engine == "plain" else ""
    print_record(
        record(
            f"{name}, {options.dtype}", watch, work, options, optimizer="AdamW", engine=options.engine, trains=trains
        )
    )
    shutil.rmtree(run.path, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
