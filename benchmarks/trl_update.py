"""TRL's PPOTrainer, as released, on the same work. `.venv-trl/bin/python -m benchmarks.trl_update`.

Three functions that `train()` calls are wrapped to read the clock: `batch_generation` starts an update,
`masked_whiten` (of the advantages) ends scoring, and `log` ends the update. Evaluation, sample generation and saving
are off. Sizes in 1.12.0: a batch is per_device_train_batch_size * gradient_accumulation_steps, and a minibatch is a
batch divided by num_mini_batches. Accumulation must be 1. With 8 times 4 rows the optimizer steps once in 8
minibatches, so 4 times in an update instead of 32 (but 32 times where the dataset ends with the batch).

The random policy would never end a response, so the wrapper writes the end token where the workload ends it. This
makes nothing cheaper: TRL generates, scores and trains response_length columns for every response, and masks what
lies after the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.contender import WARM_UP, Stopwatch, print_record, record, start
from benchmarks.workload import Workload, saved_models

CHECKPOINTING = "gradient_checkpointing" if transformers.__version__ < "5" else "activation_checkpointing"


def tokenizer(eos_id: int) -> PreTrainedTokenizerFast:
    """Pads on the left with an id beyond the vocabulary: if eos were the pad token, it would never be learned."""
    vocabulary = {str(i): i for i in range(eos_id + 1)} | {"<pad>": eos_id + 1}
    backend = Tokenizer(models.WordLevel(vocabulary))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=str(eos_id), pad_token="<pad>", padding_side="left"
    )


def build(work: Workload, options: argparse.Namespace, folder: str) -> PPOTrainer:
    """A trainer for one warm-up update and the counted updates."""
    policy_folder, reward_folder = saved_models(work, Path(options.work))
    policy = GPT2LMHeadModel.from_pretrained(policy_folder)
    prompts = [list(prompt) for prompt in work.prompts]
    args = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=len(prompts),
        gradient_accumulation_steps=1,
        num_mini_batches=len(prompts) // work.minibatch_size,
        num_ppo_epochs=work.epochs,
        total_episodes=len(prompts) * (WARM_UP + options.updates),
        response_length=work.longest,
        stop_token="eos",
        temperature=work.temperature,
        kl_coef=work.kl_coef,
        gamma=work.gamma,
        lam=work.lam,
        cliprange=work.clip_range,
        cliprange_value=work.value_clip,
        vf_coef=work.value_coef,
        learning_rate=work.lr,
        adam_epsilon=1e-5,
        max_grad_norm=work.max_grad_norm,
        seed=work.seed,
        use_cpu=options.device == "cpu",
        bf16=options.dtype == "bfloat16",
        report_to="none",
        save_strategy="no",
        num_sample_generations=0,
        disable_tqdm=True,
        **{CHECKPOINTING: False},  # like the others; TRL's default saves memory and computes forward passes twice
    )
    return PPOTrainer(
        args=args,
        processing_class=tokenizer(policy.config.eos_token_id),
        model=policy,
        ref_model=GPT2LMHeadModel.from_pretrained(policy_folder),
        reward_model=GPT2ForSequenceClassification.from_pretrained(reward_folder),
        value_model=GPT2ForSequenceClassification.from_pretrained(reward_folder),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}),
    )


class Wrapped:
    """A context in which three functions of TRL also read the clock, and responses end where the workload ends them.

    Attributes:
        steps: optimizer steps in each update.
        widths: response columns computed in each update.
    """

    def __init__(self, trainer: PPOTrainer, work: Workload, watch: Stopwatch) -> None:
        self.trainer, self.work, self.watch = trainer, work, watch
        self.steps: list[int] = []
        self.widths: list[int] = []
        self._original: dict[str, Any] = {}
        self._lengths = dict(zip(work.prompts, work.lengths, strict=True))

    def __enter__(self) -> Wrapped:
        for name in ("batch_generation", "masked_whiten"):
            self._original[name] = getattr(ppo_trainer, name)
            setattr(ppo_trainer, name, getattr(self, name))
        self._original["log"], self.trainer.log = self.trainer.log, self.log
        self._hook = self.trainer.optimizer.optimizer.register_step_post_hook(self._stepped)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self.trainer.log = self._original.pop("log")
        for name, function in self._original.items():
            setattr(ppo_trainer, name, function)

    def _stepped(self, *_: object) -> None:
        self.steps[-1] += 1

    def batch_generation(self, model: Any, queries: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """TRL's function; then the end token is written at the length of each response."""
        self.steps.append(0)
        self.watch.start()
        ids, logits = self._original["batch_generation"](model, queries, *args)
        tokenizer = self.trainer.processing_class
        responses = ids[:, queries.shape[1] :]
        responses[responses >= tokenizer.eos_token_id] = 0  # rare: one of 50,257 tokens
        for row, query in zip(responses, queries.tolist(), strict=True):
            length = self._lengths[tuple(i for i in query if i != tokenizer.pad_token_id)]
            row[length - 1] = tokenizer.eos_token_id
        self.widths.append(responses.shape[1])
        self.watch.lap("generation")
        return ids, logits

    def masked_whiten(self, values: torch.Tensor, mask: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """TRL's function, which train() calls once in an update, because whiten_rewards is off."""
        assert int(mask.sum()) == self.work.tokens
        out = self._original["masked_whiten"](values, mask, **arguments)
        self.watch.lap("scoring")
        return out

    def log(self, metrics: dict, *_: Any) -> None:
        """End the update; nothing is logged."""
        self.watch.lap("training")
        assert self.steps[-1] == self.work.optimizer_steps


def main(argv: list[str] | None = None) -> None:
    """Time some updates and print the record."""
    options, work = start(__doc__, argv)
    transformers.logging.set_verbosity_error()
    transformers.set_seed(work.seed)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        trainer = build(work, options, folder)
        watch = Stopwatch(trainer.accelerator.device)
        with Wrapped(trainer, work, watch) as wrapped:
            trainer.train()
    args = trainer.args
    print_record(
        record(
            f"TRL {version('trl')} PPOTrainer",
            watch,
            work,
            options,
            optimizer=str(args.optim.value),
            trains="all parameters of the policy, and a value model of its own size",
            columns=f"{max(wrapped.widths)} generated, scored and trained for every response, whatever its length",
            max_grad_norm="not applied: its train() does not clip gradients",
            per_device_train_batch_size=args.per_device_train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            num_mini_batches=args.num_mini_batches,
            checkpointing="off (on by default)",
        )
    )


if __name__ == "__main__":
    main()
