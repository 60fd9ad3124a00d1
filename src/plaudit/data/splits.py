"""Train, prompts and evaluation: three parts that never share a prompt or a text.

The hash of a record's prompt (of its text, if it has no prompt) decides its part. So the parts do not depend on the
order of a file, and a record stays in its part when the file grows.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import groupby
from typing import TypeVar

from plaudit.data.text import content_hash
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

Record = LabelledText | Demonstration | Comparison
R = TypeVar("R", LabelledText, Demonstration, Comparison)

TRAIN_SHARE, PROMPTS_SHARE = 0.8, 0.1  # evaluation gets the rest
TRAIN_SHARE_BESIDE_HELD_OUT = 0.9  # prompts get the rest


@dataclass(frozen=True)
class Part:
    """Records of each kind, sorted by the hash of their prompt or text, which mixes the labels."""

    labelled: tuple[LabelledText, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def __len__(self) -> int:
        return len(self.labelled) + len(self.demonstrations) + len(self.comparisons)


@dataclass(frozen=True)
class Splits:
    """A data set in three parts.

    Attributes:
        name: the data set's name in the settings.
        train: for SFT and the reward model.
        prompts: source of PPO's prompts.
        evaluation: held out, for perplexity, preference accuracy and the prompts of the evaluation.
        dropped: numbers of records that were left out, by reason.
    """

    name: str
    train: Part
    prompts: Part
    evaluation: Part
    dropped: dict[str, int]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all records with their parts; independent of the order of rows and files."""
        digest = hashlib.sha256()
        for title, part in (("train", self.train), ("prompts", self.prompts), ("evaluation", self.evaluation)):
            for record in (*part.labelled, *part.demonstrations, *part.comparisons):
                digest.update(json.dumps([title, type(record).__name__, vars(record)]).encode())
        return digest.hexdigest()


def split(name: str, records: Iterable[Record], held_out: Iterable[Record], dropped: Counter[str]) -> Splits:
    """Clean `records`, add demonstrations if there are none, and cut the three parts.

    Args:
        name: the data set's name, for errors.
        records: source of train and prompts, and of evaluation if `held_out` is empty.
        held_out: records of a separate evaluation split.
        dropped: numbers of records left out so far, by reason.

    Raises:
        DataError: a part would be empty, or all training labels are the same.
    """
    dropped = Counter(dropped)
    given, evaluation = list(records), list(held_out)
    total = len(given) + len(evaluation)
    if evaluation:
        held_keys = {key(r) for r in evaluation}
        fresh = [r for r in given if key(r) not in held_keys]
        dropped["also in evaluation"] += len(given) - len(fresh)
        pool, held = _clean(fresh, dropped), _clean(evaluation, dropped)
        train, prompts = _cut(pool, TRAIN_SHARE_BESIDE_HELD_OUT)
    else:
        train, prompts, held = _cut(_clean(given, dropped), TRAIN_SHARE, TRAIN_SHARE + PROMPTS_SHARE)
    splits = Splits(name, train, prompts, held, dict(+dropped))
    _check(splits, total)
    return splits


def key(record: Record) -> str:
    """The hash that decides a record's part: of its prompt, or of its text if it has no prompt."""
    if isinstance(record, LabelledText):
        return content_hash(record.text)
    if record.prompt:
        return content_hash(record.prompt)
    if isinstance(record, Demonstration):
        return content_hash(record.response)
    # In sorted order, so that people who disagree about a pair share a part.
    return content_hash(" ".join(sorted((record.response_a, record.response_b))))


def share(digest: str) -> float:
    """A hash as a number in [0, 1), uniformly distributed."""
    return int(digest[:8], 16) / 16**8


def _clean(records: Sequence[Record], dropped: Counter[str]) -> Part:
    """Distinct records in the order of their hashes; demonstrations come from the other records if there are none."""
    labelled = _consistent(_in_order(LabelledText, records), dropped)
    demonstrations = _distinct(
        _in_order(Demonstration, records),
        lambda r: (content_hash(r.prompt), content_hash(r.response)),
        dropped,
    )
    # With the annotator: two people who agree are two votes.
    comparisons = _distinct(
        _in_order(Comparison, records),
        lambda r: (*map(content_hash, (r.prompt, r.response_a, r.response_b)), r.choice, r.annotator),
        dropped,
    )
    return Part(tuple(labelled), tuple(demonstrations or _derived(labelled, comparisons)), tuple(comparisons))


def _in_order(kind: type[R], records: Sequence[Record]) -> list[R]:
    return sorted((r for r in records if isinstance(r, kind)), key=lambda r: (key(r), astuple(r)))


def _distinct(records: list[R], identity: Callable[[R], Hashable], dropped: Counter[str]) -> list[R]:
    """The first record of each identity."""
    first: dict[Hashable, R] = {}
    for record in records:
        first.setdefault(identity(record), record)
    dropped["duplicate"] += len(records) - len(first)
    return list(first.values())


def _consistent(texts: list[LabelledText], dropped: Counter[str]) -> list[LabelledText]:
    """Distinct texts, without those that have both labels."""
    distinct = []
    for _, group in groupby(texts, key):  # they are sorted by key
        first, *others = group
        if any(text.label != first.label for text in others):
            dropped["contradictory label"] += 1 + len(others)
        else:
            dropped["duplicate"] += len(others)
            distinct.append(first)
    return distinct


def _derived(labelled: list[LabelledText], comparisons: list[Comparison]) -> list[Demonstration]:
    """Demonstrations from other records: every text with either label, and every preferred response."""
    texts = [Demonstration("", text.text) for text in labelled]
    responses = [
        Demonstration(c.prompt, c.response_a if c.choice == "a" else c.response_b)
        for c in comparisons
        if c.choice != "tie"
    ]
    return list(dict.fromkeys(texts + responses))  # annotators can prefer the same response


def _cut(pool: Part, *edges: float) -> list[Part]:
    """`pool` cut at these shares of the range of hashes, into one part more than there are edges."""

    def cut(records: tuple[R, ...]) -> list[tuple[R, ...]]:
        bins: list[list[R]] = [[] for _ in range(len(edges) + 1)]
        for record in records:
            bins[bisect.bisect_right(edges, share(key(record)))].append(record)
        return [tuple(records) for records in bins]

    kinds = cut(pool.labelled), cut(pool.demonstrations), cut(pool.comparisons)
    return [Part(*records) for records in zip(*kinds, strict=True)]


def _check(splits: Splits, total: int) -> None:
    """Every part needs demonstrations; train and evaluation need labels or comparisons, if there are any."""
    parts = {"train": splits.train, "prompts": splits.prompts, "evaluation": splits.evaluation}
    empty = [name for name, part in parts.items() if not part.demonstrations]
    if not empty:
        counts = {name: len(parts[name].labelled + parts[name].comparisons) for name in ("train", "evaluation")}
        empty = [name for name, count in counts.items() if not count and any(counts.values())]
    if empty:
        left_out = ", ".join(f"{count} {reason}" for reason, count in splits.dropped.items())
        raise DataError(
            f"{splits.name}: no records are left for {' and '.join(empty)} out of {total}"
            f"{f' (left out: {left_out})' if left_out else ''}; add records: at least about 100 are needed"
        )
    labels = {text.label for text in splits.train.labelled}
    if len(labels) == 1:
        raise DataError(
            f"{splits.name}: all {len(splits.train.labelled)} training labels are {labels.pop()}: "
            "add texts with the other label, because a reward model learns from both"
        )
