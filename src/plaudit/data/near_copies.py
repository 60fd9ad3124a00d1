"""Held-out texts that stand, nearly word for word, among the texts that are trained on.

The splits keep exact copies apart. What they cannot see is a file of held-out texts that differ from those of another
file in punctuation or a word. Then every held-out figure is too good.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from plaudit.data.hashed import Record, texts_of
from plaudit.data.splits import Part, Splits
from plaudit.records import Text, transcript

_N = 3  # words of a gram
_FEWEST = 6  # grams that a text has of its own; texts with fewer are alike by chance
_SHARED = 0.6  # of these grams in one training text: one changed word in ten leaves this share, chance does not
_COMMON = 0.02  # of the held-out texts: a gram in more of them belongs to a template and says nothing
_WORD = re.compile(r"\w+")


def near_copies_in(data: Splits) -> dict[str, Any]:
    """How many held-out texts are nearly in a text of another part, of how many that are long enough, and an example.

    A text includes its prompt. The messages of a system, which many dialogues share, do not count.
    """
    others = (text for part in (data.train, data.prompts) for text in _texts(part))
    return near_copies(others, list(dict.fromkeys(_texts(data.evaluation))))


def near_copies(train: Iterable[str], held_out: Sequence[str]) -> dict[str, Any]:
    """As `near_copies_in`, of texts. It takes seconds for 60,000 training texts of 20 words."""
    grams = [_grams(text) for text in held_out]
    owners: defaultdict[int, list[int]] = defaultdict(list)
    for row, some in enumerate(grams):
        for gram in some:
            owners[gram].append(row)
    most = max(2, _COMMON * len(held_out))
    rows = {gram: some for gram, some in owners.items() if len(some) <= most}
    own = [sum(gram in rows for gram in some) for some in grams]
    copies: dict[int, str] = {}
    for text in train:
        shared = Counter(row for gram in _grams(text) for row in rows.get(gram, ()))
        for row, count in shared.items():
            if own[row] >= _FEWEST and count >= _SHARED * own[row]:
                copies.setdefault(row, text)
    found: dict[str, Any] = {"count": len(copies), "texts": sum(n >= _FEWEST for n in own)}
    if copies:
        first = min(copies)
        found["example"] = {"held_out": held_out[first], "training": copies[first]}
    return found


def _grams(text: str) -> set[int]:
    """The hash of each run of three words, without case and punctuation."""
    words = _WORD.findall(text.casefold())
    return {hash(tuple(words[i : i + _N])) for i in range(len(words) - _N + 1)}


def _texts(part: Part) -> Iterator[str]:
    records: Iterable[Record] = itertools.chain(*vars(part).values())
    for record in records:
        prompt = _words(record.prompt)
        yield from (f"{prompt} {_words(text)}".strip() for text in texts_of(record) or ("",))


def _words(text: Text) -> str:
    return transcript(text if isinstance(text, str) else tuple(m for m in text if m.role != "system"))
