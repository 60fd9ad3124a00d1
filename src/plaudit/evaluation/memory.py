"""How much memory the largest stage of a run needs, predicted from the shapes of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from plaudit.models.chat import without_refused
from plaudit.models.fast.activations import MAPPED_FROM
from plaudit.models.fast.head import logits_at_once
from plaudit.models.layers import layers, number_of_frozen_layers
from plaudit.models.loading import model_without_weights
from plaudit.models.sharding import gathered, layers_to_shard
from plaudit.models.tokenizer import Tokenizer
from plaudit.training import dist, memory
from plaudit.training.prompts import training_prompts
from plaudit.training.rewards import REFERENCE_SAMPLES
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

# float32 numbers that a layer keeps for the backward pass, a token and unit of width (counted for GPT-2), and copies of
# the logits that exist at once: in a loss with its gradient, and in a rollout with its KL and entropy.
_KEPT, _LOSS_COPIES, _ROLLOUT_COPIES = 18, 4, 5
_PROGRAM = 2**29  # bytes of Python and its libraries


def memory_needed(run: Run, lm: Any, prompt: int, policy: str = "ppo") -> int:
    """Bytes that the largest stage needs beyond the program itself, for prompts of `prompt` tokens in float32.

    Of a job of several processes, those of one of them. `policy` is the algorithm that trains it.
    """
    sft, reward, ppo = run.config.sft, run.config.reward_model, getattr(run.config, policy)
    weights = 4 * sum(p.numel() for p in lm.parameters())
    vocabulary, width = lm.get_input_embeddings().weight.shape
    depth = getattr(lm.config, "num_hidden_layers", 1)
    one_layer = 4 * _KEPT * width  # of one token
    divided, weights_in_pass, gradients_in_pass = dist.divides(run.config.sharding), 0, 0
    shares = dist.size() if divided else 1
    if divided:
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers_to_shard(lm)]
        weights_in_pass, gradients_in_pass = gathered(weights // 4 - sum(sizes), max(sizes))

    def learns(part: Any) -> int:
        """Bytes of the weights that learn; LoRA adapters are small beside them."""
        if part.lora_rank:
            return 0
        learning = layers(lm)[number_of_frozen_layers(lm, part.train_layers) :] if part.train_layers else [lm]
        return 4 * sum(p.numel() for module in learning for p in module.parameters())

    def stage(part: Any, rows: int, tokens: int, predicted: int, cache: int = MAPPED_FROM, pair: int = 1) -> int:
        """A model, gradients and Adam's moments of what learns, cached activations, and a batch or a copy to save."""
        rows = dist.most_rows(rows)
        rows = min(rows, pair * part.microbatch_size or rows)
        all_learn = not (part.train_layers or part.lora_rank)
        logits = min(rows * predicted * vocabulary, logits_at_once(run.device, gradient=all_learn))
        batch = rows * tokens * (part.train_layers or depth) * one_layer + 4 * _LOSS_COPIES * logits
        cached = cache if number_of_frozen_layers(lm, part.train_layers) and not divided else 0
        held, saved = (weights + 3 * learns(part)) // shares, max(weights, 3 * learns(part) // shares)
        return held + cached + weights_in_pass + max(batch, gradients_in_pass, saved)

    length = prompt + ppo.max_new_tokens
    heads = getattr(lm.config, "num_attention_heads", 1)  # a recurrent model has none
    keys_and_values = 4 * 2 * width * getattr(lm.config, "num_key_value_heads", heads) // heads  # a token and layer
    sampled = max(REFERENCE_SAMPLES, ppo.batch_size)
    sampling = dist.most_rows(sampled) * length * (one_layer + depth * keys_and_values)
    answered = dist.most_rows(ppo.batch_size) * ppo.max_new_tokens  # tokens
    rollout = min(answered * vocabulary, logits_at_once(run.device, gradient=False))
    pair = 2 if policy == "dpo" else 1  # sequences of a record
    rows = pair * min(ppo.minibatch_size, ppo.batch_size)
    longest = max(length, ppo.max_tokens) if run.reads_judgements(policy) else length
    texts = max((len(ranking.responses) for ranking in run.judged.train.rankings), default=2)
    # Activations of the sampled tokens at two depths: one for the policy, one for the reward model. Minibatches bring
    # almost all of them to every process.
    cache = 4 * 2 * width * sampled * length
    update = stage(ppo, rows, longest, max(ppo.max_new_tokens, longest - prompt), cache=cache, pair=pair)
    # Reference and reward models hold what learned again, and share the rest with the policy, unless they are divided.
    others = [weights // shares if divided else learns(part) for part in (ppo, *[reward] * reward.members)]
    return max(
        stage(sft, sft.batch_size, sft.max_tokens, sft.max_tokens),
        stage(reward, texts * reward.batch_size, reward.max_tokens, 0),
        update + sum(others) + 4 * _ROLLOUT_COPIES * rollout + sampling,
        # While the last of them is opened: out of the file, and on a CPU in it too.
        weights // shares + sum(others[:-1]) + (1 if run.device.type == "cuda" else 2) * weights,
    )


def longest_prompt(run: Run, tokenizer: Tokenizer) -> int:
    """Tokens of the longest of some prompts of the run, at most 100."""
    some, _ = without_refused(training_prompts(run, tokenizer)[0][:100], tokenizer.prompt)
    return max(map(len, some), default=0)


def runs_that_fit(runs: Sequence[Run], policy: str) -> int:
    """How many of these runs the free memory holds at once: at least 1, and all of them where it is not known.

    `policy` is the algorithm that they train.
    """
    free = memory.free(runs[0].device)
    if free is None:
        return len(runs)
    needed = 0
    for run in {dataclasses.replace(run.config, seed=0): run for run in runs}.values():  # a seed changes nothing
        prompt = longest_prompt(run, open_tokenizer(run, run.config.model))
        needed = max(needed, memory_needed(run, model_without_weights(run.config.model), prompt, policy))
    return max(1, min(len(runs), free // (needed + _PROGRAM)))
