"""TRL's newest trainers on each task of `tasks.py`. `.venv-trl-new/bin/python -m benchmarks.trl_trainers --task sft`.

They are built and trained as their documentation says. A callback reads the clock after each optimizer step. Settings
that change what is learned are TRL's defaults (but for the sizes of batches, `num_iterations` and the learning rate);
those that change only the speed are the fastest: no gradient checkpointing, bfloat16 where it is faster, torch's fused
AdamW, reference log-probabilities computed once, no dropout (plaudit has none, and on a CPU attention is slower with
it). Records come in the order of the task, so that a step reads the same records as plaudit's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import transformers
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback

from benchmarks import tasks
from benchmarks.contender import WARM_UP, Stopwatch, device_of, print_record, start_trainer, trainer_record
from benchmarks.workload import Workload, saved_models

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def tokenizer(eos_id: int, pad_id: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the ids themselves, so that both programs read the same ids."""
    backend = Tokenizer(models.WordLevel({str(i): i for i in range(eos_id + 1)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=str(eos_id), pad_token=str(pad_id))


def words(ids: tuple[int, ...]) -> str:
    """The text that the tokenizer reads as these ids."""
    return " ".join(map(str, ids))


def rows_of(task: tasks.Task) -> list[dict[str, str]]:
    """The records as rows of the dataset that the trainer of the task takes."""
    records = list(chain(*task.batches))
    if task.name in ("sft", "sft-packed"):
        return [{"text": words(text)} for ((_, text),) in records]
    if task.name == "reward-model":
        return [{"chosen": words(first), "rejected": words(second)} for (_, first), (_, second) in records]
    return [
        {"prompt": words(prompt), "chosen": f" {words(first)}", "rejected": f" {words(second)}"}
        for (prompt, first), (_, second) in records
    ]


class Clock(TrainerCallback):
    """Reads the clock after every `steps` optimizer steps."""

    def __init__(self, watch: Stopwatch, steps: int) -> None:
        self.watch, self.steps = watch, steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the first step."""
        self.watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End a step, or an update of several, and start the next."""
        if state.global_step % self.steps == 0:
            self.watch.lap("training")
            self.watch.start()


def shared_arguments(options: argparse.Namespace, work: Workload, folder: str) -> dict[str, Any]:
    """Arguments of every trainer's configuration."""
    return {
        "output_dir": folder,
        "learning_rate": work.lr,
        "max_grad_norm": work.max_grad_norm,
        "seed": work.seed,
        "use_cpu": device_of(options).type == "cpu",
        "bf16": options.dtype == "bfloat16",
        "optim": "adamw_torch_fused",
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def on_records(task: tasks.Task, options: argparse.Namespace, arguments: dict[str, Any], folders: tuple[str, str]):
    """The trainer of a task with records."""
    arguments |= {
        "per_device_train_batch_size": options.batch, "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    data = {
        "train_dataset": datasets.Dataset.from_list(rows_of(task)),
        "processing_class": tokenizer(task.eos_id, task.pad_id),
    }
    if task.name == "reward-model":
        classifier = GPT2ForSequenceClassification.from_pretrained(folders[1], pad_token_id=task.pad_id, **NO_DROPOUT)
        return trl.RewardTrainer(classifier, trl.RewardConfig(**arguments), **data)
    lm = GPT2LMHeadModel.from_pretrained(folders[0], **NO_DROPOUT)
    if task.name == "dpo":
        return trl.DPOTrainer(lm, args=trl.DPOConfig(precompute_ref_log_probs=True, **arguments), **data)
    if task.name == "sft-packed":  # rows of a batch are joined, so that one long row is the same as several
        arguments |= {"packing": True, "max_length": tasks.ROW, "per_device_train_batch_size": 1}
    return trl.SFTTrainer(lm, trl.SFTConfig(**arguments), **data)


def on_rollouts(
    options: argparse.Namespace, work: Workload, arguments: dict[str, Any], folder: str, sampled: list[int]
):
    """The trainer that samples responses; it adds their tokens to `sampled`."""

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        sampled.append(sum(map(len, completion_ids)))
        return [tasks.distinct_tokens(ids) for ids in completion_ids]

    prompts = tasks.prompts(work)
    config, trainer = (trl.GRPOConfig, trl.GRPOTrainer) if options.task == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)
    return trainer(
        GPT2LMHeadModel.from_pretrained(folder, **NO_DROPOUT),
        reward,
        config(
            per_device_train_batch_size=work.minibatch_size,
            steps_per_generation=len(prompts) // work.minibatch_size,
            num_iterations=work.epochs,
            num_generations=tasks.GROUP,
            max_completion_length=work.longest,
            temperature=work.temperature,
            beta=tasks.KL_COEF[options.task],
            max_steps=work.optimizer_steps * (WARM_UP + options.updates),
            **arguments,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": words(p)} for p in prompts[:: tasks.GROUP]]),
        processing_class=tokenizer(work.eos_id, work.eos_id - 1),
    )


def packed_tokens(trainer: trl.SFTTrainer) -> list[int]:
    """Tokens of each row that the trainer has packed."""
    return [sum(lengths) for lengths in trainer.train_dataset["seq_lengths"]]


def timed(function: Any, watch: Stopwatch) -> Any:
    """A function whose seconds are those of the reference."""

    def call(*args: Any, **arguments: Any) -> Any:
        watch.start()
        result = function(*args, **arguments)
        watch.lap("reference")
        return result

    return call


def main(argv: list[str] | None = None) -> None:
    """Time some steps or updates of one task and print the record."""
    options, work = start_trainer(__doc__, argv)
    transformers.logging.set_verbosity_error()
    transformers.set_seed(work.seed)
    folders, watch = saved_models(work, Path(options.work)), Stopwatch(device_of(options), options.clock)
    sampled: list[int] = []
    trl.DPOTrainer.compute_ref_log_probs = timed(trl.DPOTrainer.compute_ref_log_probs, watch)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        arguments = shared_arguments(options, work, folder)
        if options.task in tasks.SAMPLED:
            trainer, every = on_rollouts(options, work, arguments, folders[0], sampled), work.optimizer_steps
        else:
            task = tasks.make(options.task, work.size, Path(options.data), WARM_UP + options.steps, options.batch)
            trainer, every = on_records(task, options, arguments, folders), 1
        trainer.add_callback(Clock(watch, every))
        trainer.train()
    tokens = sampled or (packed_tokens(trainer) if options.task == "sft-packed" else task.tokens())
    args, log = trainer.args, trainer.state.log_history
    if not sampled:
        assert sum(tokens) == int(log[-1]["num_tokens"]), "TRL has read other tokens than plaudit"
    print_record(
        trainer_record(
            f"TRL {version('trl')}",
            watch,
            tokens,
            work,
            options,
            optimizer=args.optim.value,
            trains="all parameters",
            attention=trainer.model.config._attn_implementation,
            checkpointing="off (on by default)",
            per_device_train_batch_size=args.per_device_train_batch_size,
        )
    )


if __name__ == "__main__":
    main()
