"""What a policy is trained for: a number for each response, from a reward model or from a function of the texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Responses
from plaudit.errors import RewardError

TextReward = Callable[[list[str], list[str]], Sequence[float]]  # from prompts and responses to a number for each


def reward_name(reward: TextReward | None) -> str:
    """The name of a reward function; of a lambda with its place; empty for None, the run's reward model."""
    name = "" if reward is None else getattr(reward, "__name__", type(reward).__name__)
    if name == "<lambda>" and isinstance(reward, FunctionType):
        return f"<lambda> in {Path(reward.__code__.co_filename).name}, line {reward.__code__.co_firstlineno}"
    return name


@dataclass(frozen=True)
class ModelReward:
    """The logit of a reward model for prompt and response, by their token ids. Shown as 2 sigmoid(logit) - 1."""

    model: Any  # a `RewardModel`
    name = "reward model"  # in reports
    score_range = (-1.0, 1.0)  # of the shown scores; None where they have no bounds

    @torch.no_grad()
    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) logits."""
        return self.model(responses.ids, responses.attention_mask).float()

    def shown(self, raw: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(B,) in [-1, 1]: -1 is surely bad, 1 surely good."""
        return 2 * torch.sigmoid(raw) - 1


@dataclass(frozen=True)
class FunctionReward:
    """A function of the prompts and the responses as texts."""

    function: TextReward
    tokenizer: Any  # a `Tokenizer`
    score_range = None

    @property
    def name(self) -> str:
        """The function's name."""
        return reward_name(self.function)

    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) what the function returns; a RewardError unless it is one finite number for each response."""
        prompts, tokens = responses.prompts(), responses.tokens()
        texts = [self.tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)]
        given = [self.tokenizer.text(prompt) for prompt in prompts]
        returned = self.function(given, texts)
        try:
            numbers = [float(number) for number in returned]
        except (TypeError, ValueError):
            message = f"reward '{self.name}': must return one number for each response, not {returned!r:.80}"
            raise RewardError(message) from None
        if len(numbers) != len(texts):
            raise RewardError(f"reward '{self.name}': returned {len(numbers)} numbers for {len(texts)} responses")
        for number, prompt, text in zip(numbers, given, texts, strict=True):
            if not math.isfinite(number):
                raise RewardError(f"reward '{self.name}': returned {number} for the response {text!r} to {prompt!r}")
        return torch.tensor(numbers, device=responses.ids.device)

    def shown(self, raw: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(B,) as they are."""
        return raw


Reward: TypeAlias = ModelReward | FunctionReward
