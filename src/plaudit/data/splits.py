"""Train, prompts and evaluation: three parts that never share a prompt or a text.

The hash of a record's prompt (of its text, if it has no prompt) decides its part. So the parts do not depend on the
order of a file, and a record stays in its part when the file grows.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import astuple, dataclass
from functools import cached_property

from plaudit.data.text import content_hash
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

Record = LabelledText | Demonstration | Comparison

TRAIN_SHARE, PROMPTS_SHARE = 0.8, 0.1  # evaluation gets the rest
TRAIN_SHARE_BESIDE_HELD_OUT = 0.9  # prompts get the rest
_KINDS = (LabelledText, Demonstration, Comparison)


@dataclass(frozen=True)
class Part:
    """Records of each kind, sorted by the hash of their prompt or text, which mixes the labels."""

    labelled: tuple[LabelledText, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @staticmethod
    def of(records: list[Record]) -> Part:
        """A part with these records."""
        return Part(
            tuple(r for r in records if isinstance(r, LabelledText)),
            tuple(r for r in records if isinstance(r, Demonstration)),
            tuple(r for r in records if isinstance(r, Comparison)),
        )


@dataclass(frozen=True)
class Splits:
    """A data set in three parts."""

    name: str  # in the settings
    train: Part  # for SFT and the reward model
    prompts: Part  # source of the prompts that policies are trained on
    evaluation: Part  # held out, for perplexity, preference accuracy and the prompts of the evaluation
    dropped: dict[str, int]  # numbers of records that were left out, by reason

    @property
    def parts(self) -> dict[str, Part]:
        """The three parts by name."""
        return {"train": self.train, "prompts": self.prompts, "evaluation": self.evaluation}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all records with their parts; independent of the order of rows and files."""
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            for record in (*part.labelled, *part.demonstrations, *part.comparisons):
                digest.update(json.dumps([name, type(record).__name__, vars(record)]).encode())
        return digest.hexdigest()


def split(name: str, records: Iterable[Record], held_out: Iterable[Record], dropped: Counter[str]) -> Splits:
    """Clean `records`, add demonstrations if there are none, and cut the three parts.

    `held_out` becomes the evaluation; without it, that is cut from `records` too. `dropped` has the numbers of records
    left out so far, by reason.

    Raises:
        DataError: a part would be empty, or all training labels are the same.
    """
    dropped = Counter(dropped)
    given, evaluation = list(records), list(held_out)
    total = len(given) + len(evaluation)
    edges = [TRAIN_SHARE, TRAIN_SHARE + PROMPTS_SHARE]
    if evaluation:
        edges = [TRAIN_SHARE_BESIDE_HELD_OUT]
        held_keys = {key(r) for r in evaluation}
        fresh = [r for r in given if key(r) not in held_keys]
        dropped["also in evaluation"] += len(given) - len(fresh)
        given = fresh
    parts: list[list[Record]] = [[], [], []]
    for record in _clean(given, dropped):
        parts[bisect.bisect_right(edges, share(key(record)))].append(record)
    parts[2] += _clean(evaluation, dropped)
    train, prompts, held = map(Part.of, parts)
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


def _clean(records: list[Record], dropped: Counter[str]) -> list[Record]:
    """Distinct records by kind and hash, without texts that have both labels.

    If there are no demonstrations, every text with either label and every preferred response becomes one.
    """
    ordered = sorted(records, key=lambda r: (_KINDS.index(type(r)), key(r), astuple(r)))
    labels = {_identity(r) for r in records if isinstance(r, LabelledText)}
    consistent = [r for r in ordered if not isinstance(r, LabelledText) or (key(r), 1 - r.label) not in labels]
    dropped["contradictory label"] += len(ordered) - len(consistent)
    first: dict[Hashable, Record] = {}
    for record in consistent:
        first.setdefault(_identity(record), record)
    dropped["duplicate"] += len(consistent) - len(first)
    clean = list(first.values())
    if any(isinstance(r, Demonstration) for r in clean):
        return clean
    texts = [Demonstration("", r.text) for r in clean if isinstance(r, LabelledText)]
    responses = [
        Demonstration(r.prompt, r.response_a if r.choice == "a" else r.response_b)
        for r in clean
        if isinstance(r, Comparison) and r.choice != "tie"
    ]
    return [*clean, *dict.fromkeys(texts + responses)]  # annotators can prefer the same response


def _identity(record: Record) -> Hashable:
    """What duplicates have in common: hashes of their texts, and the label, or the choice and the annotator."""
    if isinstance(record, LabelledText):
        return content_hash(record.text), record.label
    if isinstance(record, Demonstration):
        return content_hash(record.prompt), content_hash(record.response)
    texts = (record.prompt, record.response_a, record.response_b)
    return *map(content_hash, texts), record.choice, record.annotator  # two people who agree are two votes


def _check(splits: Splits, total: int) -> None:
    """Every part needs demonstrations; train and evaluation need labels or comparisons, if there are any."""
    empty = [name for name, part in splits.parts.items() if not part.demonstrations]
    if not empty:
        rated = {name: bool(part.labelled or part.comparisons) for name, part in splits.parts.items()}
        empty = [
            name for name in ("train", "evaluation") if not rated[name] and (rated["train"] or rated["evaluation"])
        ]
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
