"""What a label says: a number between 0 (bad) and 1 (good)."""

from __future__ import annotations

import operator
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

from plaudit.data.tables import is_number, shown
from plaudit.errors import DataError

Meaning = Callable[[Any], "float | None"]  # None: no label

UNLABELLED = ("", "-1", "nan", "none", "null")  # -1 is GLUE's label of test texts, whose labels are not published
_BINARY = {
    **dict.fromkeys(("0", "negative", "neg", "false", "bad"), 0.0),
    **dict.fromkeys(("1", "positive", "pos", "true", "good"), 1.0),
}
_WORDS = _BINARY | {
    **dict.fromkeys(("neutral", "mixed"), 0.5),
    "very negative": 0.0,
    "very positive": 1.0,
}
_GRADED = {"very negative": 0.0, "negative": 0.25, "neutral": 0.5, "positive": 0.75, "very positive": 1.0}
_STARS = ("stars", "star", "rating", "ratings", "star_rating", "overall", "review_score")
_SCALES = {"helpfulness": 4, "correctness": 4, "coherence": 4}  # HelpSteer: 0 to 4
_STAR_TEXT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:stars?|/\s*5|out of 5.*)", re.IGNORECASE)
_COMPARED = re.compile(r"(>=|<=|>|<)\s*(-?[0-9.]+)")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def meaning(column: str, values: Iterable[Any], positive: str, header: bool) -> tuple[Meaning, str]:
    """How the labels of a column are read, and a line about it.

    Args:
        column: its name, because stars are a scale.
        values: the distinct labels.
        positive: the good labels, as in `good,great` or `>=4`; empty: decided by the labels.
        header: whether the file names its columns. Yelp's and Sentiment140's files, which do not, have labels of their
            own: 1 and 2, and 0 and 4.

    Raises:
        DataError: `positive` names no label that occurs.
    """
    words = {word for value in values if (word := word_of(value)) not in UNLABELLED}
    if positive:
        return _chosen(positive, words, column)
    if words and words <= set(_WORDS):
        graded = _GRADED if {"very negative", "very positive"} & words and words <= set(_GRADED) else _WORDS
        return _by_word(graded, column), ", ".join(f"{word} = {_number(graded[word]):g}" for word in sorted(words))
    if not header and words == {"1", "2"}:
        return _by_word({"1": 0.0, "2": 1.0}, column), "1 = 0 (bad), 2 = 1 (good), as in files of Yelp polarity"
    if words <= {"0", "2", "4"} and "4" in words and (not header or column in ("target", "polarity")):
        return _by_word(
            {"0": 0.0, "2": 0.5, "4": 1.0}, column
        ), "0 = 0 (bad), 2 = 0.5, 4 = 1 (good), as in Sentiment140"
    numbers = [_stars(word) for word in words]
    if numbers and None not in numbers:
        found = [number for number in numbers if number is not None]
        low, high = _scale(column, found, starred=any(map(_STAR_TEXT.fullmatch, words)))
        if high:
            return _linear(low, high, column), f"{low:g} (bad) to {high:g} (good), on a scale from 0 to 1"
        if all(0 <= number <= 1 for number in found):
            return _linear(0, 1, column), "from 0 (bad) to 1 (good), as they are"
    return _unknown(words, column), "0 (bad) and 1 (good)"


def word_of(value: Any) -> str:
    """A label as it is compared with others: in lower case; pandas writes 1.0 when some labels are missing."""
    return str(value) if type(value) is int else str(value).strip().lower().removesuffix(".0")


def _number(value: float) -> float:
    """Crisp labels are whole numbers."""
    return int(value) if value in (0, 1) else value


def _by_word(table: dict[str, float], column: str) -> Meaning:
    numbers = {word: _number(value) for word, value in table.items()} | dict.fromkeys(UNLABELLED)

    def read(value: Any) -> float | None:
        try:
            return numbers[value if isinstance(value, str) and value in numbers else word_of(value)]
        except KeyError:
            raise _refusal(value, list(table), column) from None

    return read


def _linear(low: float, high: float, column: str) -> Meaning:
    def read(value: Any) -> float | None:
        word = word_of(value)
        if word in UNLABELLED and not (word == "-1" and low < 0):
            return None
        number = _stars(word)
        if number is None or not low <= number <= high:
            raise DataError(f"{column} {reprlib.repr(value)}: must be between {low:g} and {high:g}")
        return _number((number - low) / (high - low))

    return read


def _chosen(positive: str, words: set[str], column: str) -> tuple[Meaning, str]:
    """Labels that `positive` names, or compares with a number, are good; the others are bad."""
    if rule := _COMPARED.fullmatch(positive.strip()):
        compare, limit = _COMPARE[rule[1]], float(rule[2])

        def read(value: Any) -> float | None:
            word = word_of(value)
            if word in UNLABELLED and word != "-1":
                return None
            number = _stars(word)
            if number is None:
                raise DataError(f"{column} {reprlib.repr(value)}: not a number, which --positive '{positive}' needs")
            return int(compare(number, limit))

        return read, f"{positive} = 1 (good), the others = 0 (bad)"
    good = {word_of(word) for word in positive.split(",") if word.strip()}
    if absent := good - words:
        raise DataError(
            f"no label {shown(sorted(absent))} (--positive) in column '{column}'; found {shown(sorted(words))}"
        )
    return (
        lambda value: None if (word := word_of(value)) in UNLABELLED and word not in good else int(word in good),
        f"{', '.join(sorted(good))} = 1 (good), the others = 0 (bad)",
    )


def _scale(column: str, numbers: list[float], starred: bool) -> tuple[float, float]:
    """Ends of the scale that a column of stars or of HelpSteer's ratings has; 0, 0 without one."""
    if column in _SCALES and min(numbers) >= 0 and max(numbers) <= _SCALES[column]:
        return 0, _SCALES[column]
    if (starred or column in _STARS) and min(numbers) >= 1 and max(numbers) <= 10:
        return 1, 5 if max(numbers) <= 5 else 10
    return 0, 0


def _stars(word: str) -> float | None:
    text = _STAR_TEXT.fullmatch(word)
    return float(text[1]) if text else float(word) if is_number(word) else None


def _unknown(words: set[str], column: str) -> Meaning:
    """Labels of which nobody has said which are good: known words are read, others are refused."""
    known = {word: _number(value) for word, value in _BINARY.items()}

    def read(value: Any) -> float | None:
        word = word_of(value)
        if word in UNLABELLED:
            return None
        if word not in known:
            raise _refusal(value, sorted(words), column)
        return known[word]

    return read


def _refusal(value: Any, words: list[str], column: str) -> DataError:
    """An error with the readings that are possible and the flag that chooses."""
    numbers = sorted(number for word in words if (number := _stars(word)) is not None)
    numeric = len(words) > 1 and len(numbers) == len(words)
    choice = f">={numbers[-1]:g}" if numeric else words[-1][:20] if words else "good"
    found = f" (labels: {shown(words)})" if len(words) > 1 else ""
    return DataError(
        f"{column} {reprlib.repr(value)}: must be 0 (or negative) or 1 (or positive){found}; name the good labels, "
        f"as in --positive '{choice}'; the others are bad"
    )
