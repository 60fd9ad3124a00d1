"""What a model predicts for texts: continuations, next tokens, reward model logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plaudit import rng
from plaudit.algorithms.reward_model import PreferenceExample, predict
from plaudit.data.judgements import Judgement
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.records import Text
from plaudit.training.rollouts import generate

_ROWS = 32  # texts that go through a model together


def continuations(
    lm: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seed: int,
    temperature: float,
    max_new_tokens: int = 48,
) -> tuple[list[str], list[bool]]:
    """A sampled continuation of each prompt, and whether the model ended it with eos.

    The same seed gives the same random numbers, whatever the model.
    """
    policy = Policy(lm.eval(), PlainEngine(), value_head=False)
    ids = [tokenizer.prompt(prompt) for prompt in prompts]
    noise = rng.uniforms(range(len(prompts)), max_new_tokens, seed, "lesson", 0, "continuations")
    responses = generate(policy, ids, noise, tokenizer, temperature)
    texts = [tokenizer.continuation(*pair).strip() for pair in zip(ids, responses.tokens(), strict=True)]
    return texts, responses.ended.tolist()


@torch.no_grad()
def likely_next(lm: Any, tokenizer: Tokenizer, text: str, k: int = 8) -> tuple[list[str], list[float]]:
    """The k most likely next tokens after `text`, most likely first, and their probabilities."""
    ids = torch.tensor([tokenizer.prompt(text)], device=lm.device)
    top = lm.eval()(input_ids=ids).logits[0, -1].float().softmax(-1).topk(k)
    return visible_tokens(tokenizer, top.indices.tolist()), top.values.tolist()


def visible_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token as text; ␣ stands for a space, ↵ for a line break."""
    return [tokenizer.hf.decode([i]).replace(" ", "␣").replace("\n", "↵") for i in ids]


def reward_logits(classifier: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """(N,) logits of a reward model: for each text, the log odds that it is good."""
    examples = [PreferenceExample(Judgement("", (t,)), (tokenizer.demonstration("", t),)) for t in texts]
    return predict(RewardModel(classifier, PlainEngine()).eval(), examples, tokenizer, classifier.device)


@torch.no_grad()
def activations(model: Any, tokenizer: Tokenizer, prompts: Sequence[Text], responses: Sequence[str]) -> np.ndarray:
    """(N, D) the mean of a model's last hidden states over the tokens of each response, eos included."""
    engine, found = PlainEngine(), []
    texts = [tokenizer.demonstration(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
    for start in range(0, len(texts), _ROWS):
        some = texts[start : start + _ROWS]
        batch = collate(some, tokenizer.pad_id)
        inputs = (batch.ids, batch.attention_mask, batch.loss_mask)
        states = engine.hidden_states(model.eval(), *(tensor.to(model.device) for tensor in inputs))
        found += [of_one.mean(0).cpu().numpy() for of_one in states.split(batch.loss_mask.sum(1).tolist())]
    return np.stack(found)
