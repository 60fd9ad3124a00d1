"""Make trl-1.12.json: one update of TRL's own PPOTrainer on tiny random models, its numbers written down.

`make parity` runs this in an environment of its own; the everyday suite only reads the file. Nothing of TRL's
arithmetic is repeated here: `PPOTrainer.train()` runs as released, and what it computes is read from the local
variables of that very function at three of its calls: `masked_whiten`, the last `masked_mean` of a minibatch, and
`log`. The fixture keeps TRL's names. What they mean in 1.12.0:

- `logprobs`, `ref_logprobs`, `values` (B, R): column t belongs to response token t (states are shifted by one). The
  first two are INVALID_LOGPROB = 1.0 after the response; values are 0 after it but for the first column.
- `sequence_lengths`: the place of the last token before the first pad, so the eos where pad is another token, and the
  token before the eos where pad = eos (-1 if the eos comes first).
- `padding_mask` is True after `sequence_lengths`, `padding_mask_p1` after `sequence_lengths + 1`. Advantages and the
  policy loss use the first, values, returns and the value loss the second.
- `scores`: of the reward model, less `missing_eos_penalty` without an eos. They are added to `rewards` at
  `sequence_lengths + 1`, one past the response, or at its last column where the response fills all R.
- `rewards`: minus kl_coef times k1 (kl_estimator), plus the score; whiten_rewards is off.
- `advantages_raw` are those of GAE, `advantages` whitened with the unbiased variance (n - 1) over ~padding_mask.
- a step is one minibatch (num_mini_batches of them in each of num_ppo_epochs) and ends in an optimizer step;
  `approxkl` is half the mean square of the log ratio, and it and `ratio_mean` count padding (log ratio 0) too;
  `pg_clipfrac` counts tokens whose loss the clip changes.
"""

import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from small import plain
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

TARGET = Path(__file__).parent / "trl-1.12.json"
WORDS = ["<eos>", *"abcdefghi", "<pad>"]  # <pad> is past the models' vocabulary: TRL takes a sampled pad for the end
PROMPTS = ["a b c", "b d", "e f g h", "c", "h a b", "d d", "g", "f e a"]
TRAIN = PPOTrainer.train.__code__
SETTINGS = ("gamma", "lam", "kl_coef", "cliprange", "cliprange_value", "temperature", "missing_eos_penalty",
            "kl_estimator", "whiten_rewards", "num_mini_batches", "num_ppo_epochs", "response_length",
            "learning_rate", "seed")  # fmt: skip
CASES = {
    "full": {"response_length": 3, "seed": 6},  # no response ends before the last column
    "early": {"response_length": 6, "seed": 4},
    "unusual": {
        "response_length": 9, "seed": 7, "gamma": 0.9, "lam": 0.8, "kl_coef": 0.3, "cliprange": 0.1,
        "cliprange_value": 0.4, "temperature": 1.3, "missing_eos_penalty": 1.0,
    },
    "pad_is_eos": {"response_length": 6, "seed": 4, "pad": "<eos>"},  # all else as in "early"
}  # fmt: skip


def tokenizer(pad: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token=pad, padding_side="left")


def build(kind: type, seed: int) -> torch.nn.Module:
    """A random GPT-2 of 2 layers x 16, with weights large enough that tokens, scores and values differ."""
    torch.manual_seed(seed)
    return kind(
        GPT2Config(
            vocab_size=len(WORDS) - 1, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=1,
            initializer_range=0.25, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip


def run_case(response_length: int, seed: int, pad: str = "<pad>", **settings) -> dict:
    transformers.set_seed(seed)  # the order of the minibatches comes from numpy, which TRL does not seed
    words = tokenizer(pad)
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder, per_device_train_batch_size=len(PROMPTS), gradient_accumulation_steps=1,
            num_mini_batches=2, num_ppo_epochs=2, total_episodes=len(PROMPTS), learning_rate=0.01,
            response_length=response_length, stop_token="eos", seed=seed, **{"temperature": 1.0, **settings},
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
            num_sample_generations=0, disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=args,
            processing_class=words,
            model=build(GPT2LMHeadModel, 10),
            ref_model=build(GPT2LMHeadModel, 11),
            reward_model=build(GPT2ForSequenceClassification, 12),
            value_model=build(GPT2ForSequenceClassification, 13),
            train_dataset=Dataset.from_dict({"input_ids": [words(text)["input_ids"] for text in PROMPTS]}),
            eval_dataset=Dataset.from_dict({"input_ids": [[2]]}),
        )
        case = {
            "settings": {name: getattr(args, name) for name in SETTINGS}
            | {"eos_id": words.eos_token_id, "pad_id": words.pad_token_id}
        }
        with Watch(trainer, case):
            trainer.train()
    return case


class Watch:
    """While it lasts, three of the functions that train() calls also copy train()'s local variables into `case`."""

    def __init__(self, trainer, case):
        self.trainer, self.case, self.original = trainer, case, {}

    def __enter__(self):
        for name in ("masked_whiten", "masked_mean", "get_reward"):
            self.original[name] = getattr(ppo_trainer, name)
            setattr(ppo_trainer, name, getattr(self, name))
        self.original["log"], self.trainer.log = self.trainer.log, self.log

    def __exit__(self, *_):
        self.trainer.log = self.original.pop("log")
        for name, function in self.original.items():
            setattr(ppo_trainer, name, function)

    def get_reward(self, model, *args):
        out = self.original["get_reward"](model, *args)
        if model is self.trainer.reward_model:
            self.case["reward_model_scores"] = plain(out[1])  # before the penalty
        return out

    def masked_whiten(self, values, mask, **kwargs):
        here = sys._getframe(1)
        assert here.f_code is TRAIN  # called once, for the advantages: whiten_rewards is off
        out = self.original["masked_whiten"](values, mask, **kwargs)
        names = ("responses", "logprobs", "ref_logprobs", "values", "scores", "sequence_lengths", "rewards", "returns")
        self.case |= {name: plain(here.f_locals[name]) for name in names}
        self.case |= {"advantages_raw": plain(values), "advantages": plain(out.masked_fill(~mask, 0)), "steps": []}
        return out

    def masked_mean(self, values, mask, **kwargs):
        out = self.original["masked_mean"](values, mask, **kwargs)
        here = sys._getframe(1)
        if here.f_code is TRAIN and "pg_loss" in here.f_locals:  # the last of four: the losses exist
            seen = here.f_locals
            step = {"rows": seen["micro_batch_inds"].tolist()}
            step |= {name: plain(seen[name]) for name in ("new_logprobs", "vpred", "pg_loss", "vf_loss", "vf_clipfrac")}
            step |= {"pg_clipfrac": plain(out), "ratio_mean": plain(seen["ratio"].mean())}
            if not self.case["steps"]:
                step["logits"] = plain(seen["logits"])  # already divided by the temperature
            self.case["steps"].append(step)
        return out

    def log(self, metrics, *args):
        approxkl = sys._getframe(1).f_locals["approxkl_stats"].flatten()
        for step, value in zip(self.case["steps"], approxkl, strict=True):
            step["approxkl"] = plain(value)
        losses = [step["pg_loss"] for step in self.case["steps"]]
        assert abs(metrics["loss/policy_avg"] - sum(losses) / len(losses)) < 1e-6  # what TRL itself reports


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    packages = ("trl", "torch", "transformers", "accelerate", "numpy")
    made_by = {
        "command": "make parity",
        "seeds": "each case's own; models 10 (policy), 11 (reference), 12 (reward), 13 (value)",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
    cases = {name: run_case(**settings) for name, settings in CASES.items()}
    text = json.dumps({"made_by": made_by, "cases": cases}, separators=(",", ":"))
    TARGET.write_text(text.replace(',"', ',\n"').replace("{", "{\n") + "\n", encoding="utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
