"""The parts of a reward, opened, and their weighted sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Responses
from plaudit.rewards.functions import UserFunction
from plaudit.rewards.sources import TextReward, ids_asked, reward_name

REWARD_MODEL = "reward model"  # the default reward in reports
SPREAD = "spread"  # after the name of an ensemble, in logs


@dataclass(frozen=True)
class ModelReward:
    """The logit of a reward model for prompt and response, by their token ids."""

    model: Any  # a `RewardModel`

    @torch.no_grad()
    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) logits."""
        return self.model(responses.ids, responses.attention_mask).float()


@dataclass(frozen=True)
class EnsembleReward:
    """The mean of the logits of several reward models, less `lower_bound` times their spread.

    The spread, their standard deviation, is large where the data says little about a response. A policy that is trained
    for the lower bound avoids such responses. Source: Coste et al. 2023.
    """

    members: tuple[ModelReward, ...]
    lower_bound: float = 0.0  # standard deviations

    def with_spread(self, responses: Responses) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """(B,) the lower bound, and (B,) the spread of the members' logits."""
        logits = torch.stack([member(responses) for member in self.members])
        spread = logits.std(0, correction=0)
        return logits.mean(0) - self.lower_bound * spread, spread

    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) the lower bound."""
        return self.with_spread(responses)[0]


@dataclass(frozen=True)
class FunctionReward:
    """A function of the prompts and the responses as texts, and of their token ids if it asks for them."""

    function: TextReward
    tokenizer: Any  # a `Tokenizer`
    title: str = ""  # in errors; the function's own name by default
    timeout: float = 0.0  # seconds for one call; 0: no limit, and the call is made in the caller's thread

    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) what the function returns; a RewardError as in `UserFunction`."""
        prompts, tokens = responses.prompts(), responses.tokens()
        texts = [self.tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)]
        ids, asked = {"prompt_ids": prompts, "response_ids": tokens}, ids_asked(self.function)
        rows = zip(map(self.tokenizer.text, prompts), texts, *(ids[name] for name in asked), strict=True)
        name = f"reward '{self.title or reward_name(self.function)}'"
        numbers = UserFunction(self.function, name, self.timeout, tuple(asked))(list(rows))
        return torch.tensor(numbers, device=responses.ids.device)


@dataclass(frozen=True)
class Part:
    """One part of a reward."""

    name: str  # in logs
    weight: float
    measure: Callable[[Responses], Float[Tensor, "B"]]


@dataclass(frozen=True)
class Reward:
    """The weighted sum of its parts, each on its own scale: the logit of a model, or what a function returns."""

    parts: tuple[Part, ...]
    name: str = REWARD_MODEL  # in reports; by default the run's reward model alone

    @property
    def score_range(self) -> tuple[float, float] | None:
        """Of the shown scores; None where they have no bounds."""
        return (-1.0, 1.0) if self.name == REWARD_MODEL else None

    def measured(self, responses: Responses) -> dict[str, Float[Tensor, "B"]]:
        """What each part gives the responses, without its weight, by the part's name; the spread of an ensemble too."""
        given: dict[str, tuple[Tensor, ...]] = {}
        # Models first: processes that share one run it together, and a function may fail in one of them.
        for part in sorted(self.parts, key=lambda part: isinstance(part.measure, FunctionReward)):
            if isinstance(measure := part.measure, EnsembleReward):
                given[part.name] = measure.with_spread(responses)
            else:
                given[part.name] = (measure(responses),)
        found = {}
        for part in self.parts:
            found[part.name], *spread = given[part.name]
            found |= {f"{part.name} {SPREAD}": each for each in spread}
        return found

    def total(self, measured: Mapping[str, Float[Tensor, "B"]]) -> Float[Tensor, "B"]:
        """(B,) the weighted sum."""
        return torch.stack([part.weight * measured[part.name] for part in self.parts]).sum(0)

    def __call__(self, responses: Responses) -> Float[Tensor, "B"]:
        """(B,) the weighted sum of what the parts give the responses."""
        return self.total(self.measured(responses))

    def shown(self, raw: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(B,) scores for reports: the weighted sums as they are; of the run's reward model alone 2 sigmoid(logit) - 1.

        The latter are in [-1, 1]: -1 is surely bad, 1 surely good.
        """
        return raw if self.score_range is None else 2 * torch.sigmoid(raw) - 1
