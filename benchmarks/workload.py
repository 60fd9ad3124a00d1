"""The workload of every contender: the same prompts, response lengths, minibatches, epochs and random weights.

TRL's environment imports this module too, so it uses torch and transformers and nothing of plaudit.

The weights are random, because the cost of an update does not depend on them. A random model never ends a response, so
each response has a fixed length, and each contender ends it there.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from benchmarks.options import DATA_FILES, RANDOM

SHAPES = {
    "gpt2": {},  # GPT2Config's defaults are the 124M model
    "tiny": {
        "vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 299,
        "eos_token_id": 299,
    },
}  # fmt: skip
PROMPT_TOKENS = (2, 7)
RESPONSE_TOKENS = (5, 15)


@dataclass(frozen=True)
class Workload:
    """One PPO update.

    Attributes:
        size: size of the models, a name in SHAPES.
        prompts: token ids of each prompt, all distinct; lengths within PROMPT_TOKENS.
        lengths: tokens of the response to each prompt, within RESPONSE_TOKENS, end token included.
        epochs, minibatch_size: passes over the responses; responses in one optimizer step.
        lr, temperature, kl_coef, gamma, lam, clip_range, value_clip, value_coef, max_grad_norm: PPO's.
        seed: seed of weights, prompts, lengths and sampling.
    """

    size: str
    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    epochs: int = 4
    minibatch_size: int = 4
    lr: float = 1e-5
    temperature: float = 1.0
    kl_coef: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 1

    @property
    def tokens(self) -> int:
        """Response tokens in one update."""
        return sum(self.lengths)

    @property
    def eos_id(self) -> int:
        """Id of the end token, the last one of the vocabulary."""
        return eos_id_of(self.size)

    @property
    def longest(self) -> int:
        """Length of the longest response, for contenders with one cap for all responses."""
        return max(self.lengths)

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps in one update; the last minibatch of an epoch may be smaller."""
        return self.epochs * -(-len(self.prompts) // self.minibatch_size)

    def settings(self) -> dict:
        """Sizes and PPO settings to print beside a time, without the token ids."""
        plain = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("prompts", "lengths")}
        return plain | {
            "prompts": len(self.prompts),
            "prompt_tokens": sum(map(len, self.prompts)),
            "response_tokens": self.tokens,
            "optimizer_steps": self.optimizer_steps,
        }


def make(size: str, data: Path, prompts: int = 32, epochs: int = 4, minibatch_size: int = 4, seed: int = 1) -> Workload:
    """The workload. The same arguments always give the same one.

    Args:
        data: folder with gpt2-tokenizer/ and sst2/, the source of prompts for size gpt2. Other sizes use random ids, as
            size gpt2 does with RANDOM.
        prompts: number of prompts.

    Raises:
        FileNotFoundError: `data` has no such files.
    """
    draw = random.Random(seed)
    chosen: dict[tuple[int, ...], int] = {}
    for ids in texts(size, data, draw):
        prompt = ids[: draw.randint(*PROMPT_TOKENS)]
        if len(prompt) >= PROMPT_TOKENS[0]:
            chosen.setdefault(tuple(prompt), draw.randint(*RESPONSE_TOKENS))
        if len(chosen) == prompts:
            break
    return Workload(size, tuple(chosen), tuple(chosen.values()), epochs, minibatch_size, seed=seed)


def eos_id_of(size: str) -> int:
    """Id of the end token, the last one of the vocabulary, of the models of a size."""
    return SHAPES[size].get("eos_token_id", 50256)


def texts(size: str, data: Path, draw: random.Random) -> Iterator[list[int]]:
    """Token ids of sentences of SST-2 in random order, without an end.

    For a size other than gpt2, or with RANDOM as data, random ids: texts of 9 to 14 tokens.
    """
    return _sst2(data, draw) if size == "gpt2" and data != RANDOM else _random_ids(eos_id_of(size) - 1, draw)


def _sst2(data: Path, draw: random.Random) -> Iterator[list[int]]:
    texts, vocabulary, merges = (data / name for name in DATA_FILES)
    for file in (texts, vocabulary, merges):
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file; choose the data folder with --data, or --data random")
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rows = texts.read_text(encoding="utf-8").splitlines()[1:]
    draw.shuffle(rows)
    return (tokenizer.encode(row.rpartition("\t")[0].strip()).ids for row in rows)


def _random_ids(vocabulary: int, draw: random.Random) -> Iterator[list[int]]:
    while True:
        yield [draw.randrange(vocabulary) for _ in range(draw.randint(*PROMPT_TOKENS) + PROMPT_TOKENS[1])]


def saved_models(work: Workload, folder: Path) -> tuple[str, str]:
    """Folders of the random policy and of a reward model of the same size; created at the first call.

    Both are Hugging Face folders with float32 weights. The reward model has one label.
    """
    home = folder / f"{work.size}-{work.seed}"
    if not home.exists():
        partial = home.with_name(home.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        config = GPT2Config(**SHAPES[work.size])
        torch.manual_seed(work.seed)
        GPT2LMHeadModel(config).save_pretrained(partial / "policy")
        config.num_labels, config.pad_token_id = 1, config.eos_token_id
        GPT2ForSequenceClassification(config).save_pretrained(partial / "reward")
        partial.rename(home)
    return str(home / "policy"), str(home / "reward")


def reward_model_on_frozen_layers(policy: str, reward: str, train_layers: int) -> str:
    """Folder of a reward model with its own top layers, and the policy's layers below them."""
    folder = Path(f"{reward}-top-{train_layers}")
    if not folder.exists():
        backbone = GPT2LMHeadModel.from_pretrained(policy).transformer
        model = GPT2ForSequenceClassification.from_pretrained(reward)
        for name in ("wte", "wpe"):
            setattr(model.transformer, name, getattr(backbone, name))
        for layer in range(len(backbone.h) - train_layers):
            model.transformer.h[layer] = backbone.h[layer]
        partial = folder.with_name(folder.name + ".partial")
        model.save_pretrained(partial)
        partial.rename(folder)
    return str(folder)
