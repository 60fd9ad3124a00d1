"""The parts of a reward, opened, and their weighted sum."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Responses
from plaudit.errors import RewardError
from plaudit.rewards.calling import TooLate, in_time
from plaudit.rewards.sources import TextReward, ids_asked, reason, reward_name

REWARD_MODEL = "reward model"  # the default reward in reports
SPREAD = "spread"  # after the name of an ensemble, in logs
_LARGEST = 1e30  # well within float32
_LONGEST = 300  # characters of a text in an error
_Row: TypeAlias = tuple[str, str, list[int], list[int]]  # prompt, response, and their ids


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
        """(B,) what the function returns.

        Raises:
            RewardError: it raises, does not return in time, or does not return one finite number for each response. The
                error names the text that causes it.
        """
        prompts, tokens = responses.prompts(), responses.tokens()
        texts = [self.tokenizer.continuation(p, t) for p, t in zip(prompts, tokens, strict=True)]
        rows = list(zip(map(self.tokenizer.text, prompts), texts, prompts, tokens, strict=True))
        try:
            returned = self._call(rows, self.timeout)
        except TooLate as error:
            place, which = self._place(error.places), self._cause(rows, self.timeout / 8)
            slow = "raise reward_timeout if it is only slow"
            raise RewardError(f"{self._name}: no answer in {self.timeout:g} s{place} {which}; {slow}") from None
        except Exception as error:
            frames = [(f.filename, f.lineno or 0) for f in reversed(traceback.extract_tb(error.__traceback__))]
            place, which = self._place(frames), self._cause(rows, self.timeout)
            raise RewardError(f"{self._name}: {reason(error)}{place} {which}") from error
        return torch.tensor(self._numbers(returned, rows), device=responses.ids.device)

    @property
    def _name(self) -> str:
        return f"reward '{self.title or reward_name(self.function)}'"

    def _call(self, rows: list[_Row], seconds: float) -> Any:
        """What the function returns for some rows."""
        prompts, texts, prompt_ids, response_ids = (list(column) for column in zip(*rows, strict=True))
        ids = {"prompt_ids": prompt_ids, "response_ids": response_ids}
        more = {name: ids[name] for name in ids_asked(self.function)}

        def call() -> Any:
            try:
                with torch.no_grad():
                    returned = self.function(prompts, texts, **more)
                    return list(returned) if isinstance(returned, Iterator) else returned
            except SystemExit as error:  # it must not end the program that calls it
                raise RuntimeError(f"it calls sys.exit({error.code})").with_traceback(error.__traceback__) from error

        return in_time(call, seconds) if seconds else call()

    def _cause(self, rows: list[_Row], seconds: float) -> str:
        """The response for which alone the function fails as well, in words; found by halving the rows."""

        def fails(some: list[_Row]) -> bool:
            try:
                self._call(some, seconds)
            except (TooLate, Exception):
                return True
            return False

        left = rows
        while len(left) > 1:
            half = len(left) // 2
            left = next((some for some in (left[:half], left[half:]) if fails(some)), [])
        return _named(*left[0][:2]) if left else f"for {len(rows)} responses together, and for no part of them"

    def _place(self, places: list[tuple[str, int]]) -> str:
        """The innermost line of the function's own file; "" if there is none."""
        file = getattr(getattr(inspect.unwrap(self.function), "__code__", None), "co_filename", None)
        line = next((line for name, line in places if name == file), None)
        return f" ({Path(file).name}, line {line})" if file and line else ""

    def _numbers(self, returned: Any, rows: list[_Row]) -> list[float]:
        """What was returned as one number for each row."""
        values = returned.tolist() if hasattr(returned, "tolist") else returned  # an array or a tensor
        must = f"{self._name}: must return one number for each response, not"
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise RewardError(f"{must} {_short(returned)}")
        if len(values) != len(rows):
            raise RewardError(f"{self._name}: returned {len(values)} numbers for {len(rows)} responses")
        numbers = []
        for value, row in zip(values, rows, strict=True):
            number = _number(value)
            if number is None:
                raise RewardError(f"{must} {_short(value)} {_named(*row[:2])}")
            if not abs(number) < _LARGEST:
                raise RewardError(f"{self._name}: returned {number:g} {_named(*row[:2])}")
            numbers.append(number)
        return numbers


def _number(value: Any) -> float | None:
    """A number of any library as a float; None for something else, such as a text with digits."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except Exception:  # of any class: whatever the value's own library raises
        return None


def _named(prompt: str, response: str) -> str:
    return f"for the response {_short(response)} to {_short(prompt)}"


def _short(value: Any) -> str:
    """`value` as Python writes it, in one line of at most some hundred characters."""
    text = " ".join(repr(value).split("\n"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
        found = {}
        for part in self.parts:
            if isinstance(part.measure, EnsembleReward):
                found[part.name], found[f"{part.name} {SPREAD}"] = part.measure.with_spread(responses)
            else:
                found[part.name] = part.measure(responses)
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
