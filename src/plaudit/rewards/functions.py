"""A user's function of texts, called with a time limit. Its errors name the line and the text that cause them."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from plaudit.errors import RewardError
from plaudit.rewards.calling import TooLate, in_time
from plaudit.rewards.sources import reason

_LARGEST = 1e30  # well within float32
_LONGEST = 300  # characters of a text in an error
Row: TypeAlias = tuple[Any, ...]  # prompt, response, and what the function asks for


@dataclass(frozen=True)
class UserFunction:
    """A function of prompts and responses that returns a number for each."""

    function: Callable[..., Any]
    name: str  # in errors, such as "reward 'polite.py:score'"
    timeout: float = 0.0  # seconds for one call; 0: no limit, and the call is made in the caller's thread
    asked: tuple[str, ...] = ()  # its keyword arguments, whose values follow prompt and response in each row

    def __call__(self, rows: Sequence[Row]) -> list[float]:
        """What the function returns for the rows.

        Raises:
            RewardError: it raises, does not return in time, or does not return one finite number for each response. The
                error names the text that causes it.
        """
        try:
            returned = self._call(rows, self.timeout)
        except TooLate as error:
            place, which = self._place(error.places), self._cause(rows, self.timeout / 8)
            slow = "raise reward_timeout if it is only slow"
            raise RewardError(f"{self.name}: no answer in {self.timeout:g} s{place} {which}; {slow}") from None
        except Exception as error:  # of any class: it is the user's code
            frames = [(f.filename, f.lineno or 0) for f in reversed(traceback.extract_tb(error.__traceback__))]
            place, which = self._place(frames), self._cause(rows, self.timeout)
            raise RewardError(f"{self.name}: {reason(error)}{place} {which}") from error
        return self._numbers(returned, rows)

    def _call(self, rows: Sequence[Row], seconds: float) -> Any:
        """What the function returns for some rows."""
        prompts, texts, *more = (list(column) for column in zip(*rows, strict=True))

        def call() -> Any:
            try:
                with torch.no_grad():
                    returned = self.function(prompts, texts, **dict(zip(self.asked, more, strict=True)))
                    return list(returned) if isinstance(returned, Iterator) else returned
            except SystemExit as error:  # it must not end the program that calls it
                raise RuntimeError(f"it calls sys.exit({error.code})").with_traceback(error.__traceback__) from error

        return in_time(call, seconds) if seconds else call()

    def _cause(self, rows: Sequence[Row], seconds: float) -> str:
        """The response for which alone the function fails as well, in words; found by halving the rows."""

        def fails(some: Sequence[Row]) -> bool:
            try:
                self._call(some, seconds)
            except (TooLate, Exception):
                return True
            return False

        left = rows
        while len(left) > 1:
            half = len(left) // 2
            left = next((some for some in (left[:half], left[half:]) if fails(some)), [])
        return named(*left[0][:2]) if left else f"for {len(rows)} responses together, and for no part of them"

    def _place(self, places: list[tuple[str, int]]) -> str:
        """The innermost line of the function's own file; "" if there is none."""
        file = getattr(getattr(inspect.unwrap(self.function), "__code__", None), "co_filename", None)
        line = next((line for name, line in places if name == file), None)
        return f" ({Path(file).name}, line {line})" if file and line else ""

    def _numbers(self, returned: Any, rows: Sequence[Row]) -> list[float]:
        """What was returned as one number for each row."""
        values = returned.tolist() if hasattr(returned, "tolist") else returned  # an array or a tensor
        must = f"{self.name}: must return one number for each response, not"
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise RewardError(f"{must} {_short(returned)}")
        if len(values) != len(rows):
            raise RewardError(f"{self.name}: returned {len(values)} numbers for {len(rows)} responses")
        numbers = []
        for value, row in zip(values, rows, strict=True):
            number = _number(value)
            if number is None:
                raise RewardError(f"{must} {_short(value)} {named(*row[:2])}")
            if not abs(number) < _LARGEST:
                raise RewardError(f"{self.name}: returned {number:g} {named(*row[:2])}")
            numbers.append(number)
        return numbers


def named(prompt: str, response: str) -> str:
    """A response in words, for an error."""
    return f"for the response {_short(response)} to {_short(prompt)}"


def _number(value: Any) -> float | None:
    """A number of any library as a float; None for something else, such as a text with digits."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except Exception:  # of any class: whatever the value's own library raises
        return None


def _short(value: Any) -> str:
    """`value` as Python writes it, in one line of at most some hundred characters."""
    text = " ".join(repr(value).split("\n"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
