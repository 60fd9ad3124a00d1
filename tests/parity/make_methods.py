"""Make trl-1.16.json: steps of TRL's newest trainers on tiny models, with the tokens, the losses and the gradients.

`make parity` runs this in an environment of its own; the everyday suite only reads the file. Nothing of TRL's
arithmetic is repeated here: each trainer's `train()` runs as released, for two optimizer steps of plain gradient
descent without clipping, from the weights of `small.py`. The fixture has, for every case:

- `settings`: those of the trainer's config that are not the default.
- `rows`: token ids, as the trainer has them; of the trainers that sample, `rollout`, with what they made of it.
- `steps`: `loss`, the sum over the microbatches of what `compute_loss` returned, each divided by their number where
  the trainer leaves that to transformers; the gradient that the optimizer sees; and figures of the log.
"""

import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from small import SEEDS, WORDS, build, gradients, plain
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer

TARGET = Path(__file__).parent / "trl-1.16.json"
LR = 0.3
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
         "disable_tqdm": True, "logging_steps": 1, "max_steps": 2, "max_grad_norm": 0.0, "seed": 5}  # fmt: skip

PAIRS = [
    ("a b c", " d e f", " i"),
    ("b d", " a", " c c g h a"),
    ("h", " e f g h", " b b"),
    ("c a", " f a c", " d d a"),
    ("g e b", " i i", " a h c d"),
    ("d", " b g", " e"),
]
EQUAL = [("a b c", " d e f", " i a h"), ("b d", " a c i", " c g h"), ("h", " e f g", " b b e")]
MARKED = [
    ("a b c", " d e f", True),
    ("b d", " c c g h a", False),
    ("h", " e f", True),
    ("c a", " d", False),
    ("g e b", " i i h", True),
    ("d", " b g", True),
    ("f f", " a i", False),
    ("e", " h h c b", True),
]
PROMPTS = ["a b c", "d", "g e", "i"]


def reward(prompts, completion_ids, **_) -> list[float]:
    """By the tokens a, b and c and their places. All completions of the last prompt have the same reward."""
    worth = {1: 1.0, 2: -0.5, 3: 0.7}
    return [
        0.3 if prompt == PROMPTS[-1] else sum(worth.get(token, 0.0) * 0.9**t for t, token in enumerate(ids))
        for prompt, ids in zip(prompts, completion_ids, strict=True)
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


class Record(TrainerCallback):
    """Watches a trainer: the losses of its microbatches, the gradient before each step, and what it logs."""

    def __init__(self, trainer: Any, figures: tuple[str, ...]) -> None:
        self.trainer, self.figures, self.steps, self.losses = trainer, figures, [], []
        self.compute_loss = trainer.compute_loss
        trainer.compute_loss = self.watched
        trainer.add_callback(self)

    def watched(self, model, inputs, *args, **kwargs):
        loss = self.compute_loss(model, inputs, *args, **kwargs)
        self.losses.append(loss.detach())
        return loss

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        total = torch.stack(self.losses).sum()
        scaled = self.trainer.loss_is_scaled_for_ga
        if not (self.trainer.model_accepts_loss_kwargs if scaled is None else scaled):
            total /= len(self.losses)
        found = gradients(self.trainer.model)
        self.steps.append({"loss": plain(total), **{name: plain(value) for name, value in found.items()}})
        self.losses.clear()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.steps:
            self.steps[-1] |= {name: logs[name] for name in self.figures if name in logs}


def train(kind, config, rows, figures=(), model=None, reference=None, watch=None, **settings) -> tuple[Any, dict]:
    """A trainer after its two steps, and the case so far."""
    transformers.set_seed(5)
    model = model or build(LlamaForCausalLM, SEEDS["policy"])
    sgd = torch.optim.SGD(model.parameters(), LR)
    constant = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
    batch = {"per_device_train_batch_size": len(rows)} | settings
    with tempfile.TemporaryDirectory() as folder:
        others = {}
        if reference:
            build(type(model), SEEDS[reference]).save_pretrained(folder)
            model.config._name_or_path = folder  # the trainers that sample take their reference from there
        if kind in (DPOTrainer, KTOTrainer):
            others["ref_model"] = build(LlamaForCausalLM, SEEDS[reference])
        if kind in (GRPOTrainer, RLOOTrainer):
            others["reward_funcs"] = reward
        trainer = kind(
            model=model, args=config(output_dir=folder, **QUIET | batch), processing_class=tokenizer(),
            train_dataset=Dataset.from_list(rows), optimizers=(sgd, constant), **others,
        )  # fmt: skip
        record = Record(trainer, figures)
        if watch:
            watch(trainer)
        trainer.train()
    assert len(record.steps) == 2
    return trainer, {"settings": settings, "steps": record.steps}


def ids(trainer, *columns: str) -> list:
    return [[row[name] for name in columns] for row in trainer.train_dataset]


def pairs(rows) -> list[dict]:
    return [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def dpo(rows=PAIRS, **settings) -> dict:
    trainer, case = train(DPOTrainer, DPOConfig, pairs(rows), REWARDS, reference="reference", **settings)
    return case | {"rows": ids(trainer, "prompt_ids", "chosen_ids", "rejected_ids")}


def simpo(**settings) -> dict:
    """CPOTrainer pads and masks the ids itself, without names for them."""
    seen = []

    def watch(trainer):
        original = trainer.concatenated_forward

        def watched(model, batch):
            seen.append(batch)
            return original(model, batch)

        trainer.concatenated_forward = watched

    rows = [dict(row, chosen=row["chosen"], rejected=row["rejected"]) for row in pairs(PAIRS)]
    _, case = train(CPOTrainer, CPOConfig, rows, REWARDS, watch=watch, remove_unused_columns=False, **settings)
    found = []
    for i in range(len(PAIRS)):
        prompt = seen[0]["prompt_input_ids"][i][seen[0]["prompt_attention_mask"][i].bool()].tolist()
        labels = [seen[0][f"{name}_labels"][i] for name in ("chosen", "rejected")]
        found.append([prompt, *(row[row >= 0].tolist() for row in labels)])
        for name, row in zip(("chosen", "rejected"), labels, strict=True):
            kept = seen[0][f"{name}_attention_mask"][i].bool()
            assert seen[0][f"{name}_input_ids"][i][kept].tolist() == prompt + row[row >= 0].tolist()
    return case | {"rows": found}


def kto(**settings) -> dict:
    rows = [dict(zip(("prompt", "completion", "label"), row, strict=True)) for row in MARKED]
    reference = settings.pop("reference", "reference")
    model = build(LlamaForCausalLM, SEEDS["policy" if reference == "reference" else "reference"])
    figures = ("kl", "rewards/chosen", "rewards/rejected")
    trainer, case = train(KTOTrainer, KTOConfig, rows, figures, model, reference, **settings)
    return case | {"rows": ids(trainer, "prompt_ids", "completion_ids", "label"), "reference": reference}


def sampled(kind, config, figures, model=None, **settings) -> dict:
    rollout = {}

    def watch(trainer):
        score, generate = trainer._calculate_rewards, trainer._generate_and_score_completions
        compute, microbatches = trainer._compute_loss, []

        def rewards(*args):
            out = score(*args)
            rollout["rewards"] = plain(out[:, 0])
            return out

        def generated(inputs):
            out = generate(inputs)
            rollout["prompts"] = unpadded(out["prompt_ids"], out["prompt_mask"])
            rollout["responses"] = unpadded(out["completion_ids"], out["completion_mask"])
            rollout["advantages"] = plain(out["advantages"])
            return out

        def loss(model, inputs):
            whole = list(zip(rollout["prompts"], rollout["responses"], strict=True))
            part = (unpadded(inputs[f"{name}_ids"], inputs[f"{name}_mask"]) for name in ("prompt", "completion"))
            microbatches.append([whole.index(pair) for pair in zip(*part, strict=True)])
            rollout["microbatches"] = microbatches
            return compute(model, inputs)

        trainer._calculate_rewards, trainer._generate_and_score_completions = rewards, generated
        trainer._compute_loss = loss

    shared = {"max_completion_length": 6, "temperature": 1.3, "num_generations": 4, "num_iterations": 2}
    size = {"per_device_train_batch_size": 16} | settings
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    _, case = train(kind, config, rows, figures, model, "reference", watch, **shared | size)
    return case | {"rollout": rollout}


def grpo(model=None, **settings) -> dict:
    figures = ("kl", "entropy", "clip_ratio/region_mean", "frac_reward_zero_std")
    return sampled(GRPOTrainer, GRPOConfig, figures, model, **settings)


def rloo(**settings) -> dict:
    return sampled(RLOOTrainer, RLOOConfig, ("kl", "clip_ratio/region_mean"), **settings)


def unpadded(rows, mask) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(rows, mask, strict=True)]


def sft(**settings) -> dict:
    rows = [{"prompt": prompt, "completion": better} for prompt, better, _ in PAIRS]
    trainer, case = train(SFTTrainer, SFTConfig, rows, ("mean_token_accuracy",), **settings)
    return case | {"rows": ids(trainer, "input_ids", "labels")}


def reward_model(margins=None, **settings) -> dict:
    rows = [{"chosen": p + c, "rejected": p + r} for p, c, r in PAIRS]
    if margins:
        rows = [row | {"margin": margin} for row, margin in zip(rows, margins, strict=True)]
    model = build(LlamaForSequenceClassification, SEEDS["policy"])
    trainer, case = train(RewardTrainer, RewardConfig, rows, ("accuracy", "margin"), model, **settings)
    return case | {"rows": ids(trainer, "chosen_ids", "rejected_ids", *["margin"] * bool(margins))}


DEFAULTS = {  # the settings that docs/from-trl.md lists
    DPOConfig: "beta loss_type label_smoothing learning_rate num_train_epochs per_device_train_batch_size max_length "
    "max_grad_norm precompute_ref_log_probs weight_decay",
    CPOConfig: "beta simpo_gamma cpo_alpha loss_type",
    KTOConfig: "beta loss_type desirable_weight undesirable_weight train_sampling_strategy",
    GRPOConfig: "num_generations num_iterations epsilon beta use_bias_correction_kl loss_type scale_rewards "
    "temperature max_completion_length entropy_coef mask_truncated_completions importance_sampling_level "
    "learning_rate",
    RLOOConfig: "num_generations num_iterations epsilon beta normalize_advantages temperature max_completion_length "
    "learning_rate",
}
HALVES = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
CASES = {
    "dpo": lambda: dpo(),
    "dpo, reference first": lambda: dpo(beta=0.4, precompute_ref_log_probs=True),
    "dpo, ipo": lambda: dpo(loss_type=["ipo"], beta=0.4),
    "dpo, ipo of equal lengths": lambda: dpo(EQUAL, loss_type=["ipo"], beta=0.4),
    "dpo, sigmoid with smoothing": lambda: dpo(label_smoothing=0.2),
    "dpo, aot of one pair": lambda: dpo(
        loss_type=["aot"], label_smoothing=0.2, per_device_train_batch_size=1, gradient_accumulation_steps=6
    ),
    "simpo": lambda: simpo(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0),
    "kto": lambda: kto(beta=0.4, desirable_weight=1.5, undesirable_weight=0.8),
    "kto, other models": lambda: kto(reference="policy"),
    "grpo": lambda: grpo(),
    "grpo, no scaling": lambda: grpo(scale_rewards="none"),
    "grpo, by sequence": lambda: grpo(loss_type="grpo"),
    "grpo, by constant": lambda: grpo(loss_type="dr_grpo", scale_rewards="none"),
    "grpo, in halves": lambda: grpo(**HALVES),
    "grpo, bnpo in halves": lambda: grpo(loss_type="bnpo", seed=8, **HALVES),
    "grpo, kl": lambda: grpo(beta=0.3, use_bias_correction_kl=False),
    "grpo, kl by sequence": lambda: grpo(loss_type="grpo", beta=0.3, use_bias_correction_kl=False),
    "grpo, kl by constant": lambda: grpo(loss_type="dr_grpo", beta=0.3, use_bias_correction_kl=False),
    "grpo, kl corrected": lambda: grpo(beta=0.3),
    "grpo, entropy": lambda: grpo(entropy_coef=0.2),
    "grpo, entropy by sequence": lambda: grpo(loss_type="grpo", entropy_coef=0.2),
    "grpo, absolute positions": lambda: grpo(build(GPT2LMHeadModel, SEEDS["policy"])),
    "rloo": lambda: rloo(beta=0.3),
    "rloo, no kl": lambda: rloo(beta=0.0),
    "rloo, in halves": lambda: rloo(beta=0.3, **HALVES),
    "sft": lambda: sft(),
    "sft, in parts": lambda: sft(per_device_train_batch_size=2, gradient_accumulation_steps=3),
    "reward model": lambda: reward_model(),
    "reward model, margins": lambda: reward_model([0.5, 1.0, 0.0, 2.0, 0.3, 0.7]),
}


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    packages = ("trl", "torch", "transformers", "accelerate", "numpy")
    made_by = {"command": "make parity", "python": platform.python_version(), **{p: version(p) for p in packages}}
    with tempfile.TemporaryDirectory() as folder:
        configs = {kind.__name__: (kind(output_dir=folder, use_cpu=True), names) for kind, names in DEFAULTS.items()}
        defaults = {kind: {n: getattr(c, n) for n in names.split()} for kind, (c, names) in configs.items()}
    content = {"made_by": made_by, "defaults": defaults, "lr": LR}
    content["cases"] = {name: make() for name, make in CASES.items()}
    text = json.dumps(content, separators=(",", ":")).replace(',"', ',\n"').replace("{", "{\n")
    TARGET.write_text(text + "\n", encoding="utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
