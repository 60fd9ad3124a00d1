"""Train, prompts and evaluation: three parts that never share a prompt or a text.

Records that share a prompt, a text or the beginning of a dialogue form a group, and so do records that are connected
through others. A hash decides the part of a whole group. So the parts do not depend on the order of a file, and a
record stays in its part when the file grows, unless a new record connects its group with another.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from plaudit.data.hashed import Hashed, Record, order
from plaudit.data.tables import Reading
from plaudit.data.text import content_digest
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText, Prompt, Ranking, Text

TRAIN_SHARE, PROMPTS_SHARE = 0.8, 0.1  # evaluation gets the rest
TRAIN_SHARE_BESIDE_HELD_OUT = 0.9  # prompts get the rest
WARN_SHARE, REFUSE_SHARE = 0.05, 0.5  # of the records left out
FEW_GROUPS = 20  # fewer rarely fill three parts
UNLABELLED_TABLE = "in a table without labels"  # such as the test split of a benchmark: these records are not a loss
EDGES, EDGES_BESIDE_HELD_OUT = [TRAIN_SHARE, TRAIN_SHARE + PROMPTS_SHARE], [TRAIN_SHARE_BESIDE_HELD_OUT]
PARTS = ("train", "prompts", "evaluation")
KINDS = (LabelledText, Demonstration, Comparison, Ranking, Prompt)  # in the order of the fields of Part


@dataclass(frozen=True)
class Part:
    """Records of each kind, sorted by the hash of their prompt or text, which mixes the labels.

    Those of a large data set stay in their file until they are used.
    """

    labelled: Sequence[LabelledText] = ()
    demonstrations: Sequence[Demonstration] = ()
    comparisons: Sequence[Comparison] = ()
    rankings: Sequence[Ranking] = ()
    to_answer: Sequence[Prompt] = ()

    @staticmethod
    def of(records: list[Record]) -> Part:
        """A part with these records."""
        kinds: dict[type, list[Record]] = {kind: [] for kind in KINDS}
        for record in records:
            kinds[type(record)].append(record)
        return Part(*map(tuple, kinds.values()))  # type: ignore[arg-type]

    @property
    def judged(self) -> bool:
        """Whether there is something that a reward model learns from."""
        return bool(self.labelled or self.comparisons or self.rankings)


@dataclass(frozen=True)
class Splits:
    """A data set in three parts."""

    name: str  # in the settings
    train: Part  # for SFT and the reward model
    prompts: Part  # source of the prompts that policies are trained on
    evaluation: Part  # held out, for perplexity, preference accuracy and the prompts of the evaluation
    dropped: dict[str, int]  # numbers of records that were left out, by reason
    warning: str = ""  # one line, if many were
    readings: tuple[Reading, ...] = ()  # how each table was read

    @property
    def parts(self) -> dict[str, Part]:
        """The three parts by name."""
        return dict(zip(PARTS, (self.train, self.prompts, self.evaluation), strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all records with their parts; independent of the order of rows and files."""
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            for record in itertools.chain(*vars(part).values()):
                digest.update(json.dumps([name, type(record).__name__, vars(record)], default=vars).encode())
        return digest.hexdigest()


def split(
    name: str,
    records: Iterable[Record],
    held_out: Iterable[Record],
    dropped: Counter[str],
    readings: tuple[Reading, ...] = (),
) -> Splits:
    """Clean `records`, add demonstrations if there are none, and cut the three parts.

    `held_out` becomes the evaluation; without it, that is cut from `records` too. `dropped` has the numbers of records
    left out so far, by reason.

    Raises:
        DataError: a part would be empty, all training labels are the same, or half of the records would be left out.
    """
    dropped = Counter(dropped)
    given, evaluation = list(map(Hashed, records)), list(map(Hashed, held_out))
    total = len(given) + len(evaluation) + sum(dropped.values()) - dropped[UNLABELLED_TABLE]
    whole = {text for r in (*given, *evaluation) if not r.prompt for text in r.texts}
    edges = EDGES
    if evaluation:
        edges = EDGES_BESIDE_HELD_OUT
        held = {anchor for r in evaluation for anchor in r.anchors(whole)}
        fresh = [r for r in given if held.isdisjoint(r.anchors(whole))]
        dropped["also in evaluation"] += len(given) - len(fresh)
        given = fresh
    clean = _clean(given, dropped)
    groups = _groups(clean, whole)
    parts: list[list[Record]] = [[], [], []]
    made = _demonstrations(clean)
    groups += [groups[source] for source in made.values()]
    for record, group in zip(itertools.chain((r.record for r in clean), made), groups, strict=True):
        parts[bisect.bisect_right(edges, share(group))].append(record)
    kept = _clean(evaluation, dropped)
    parts[2] += [*(r.record for r in kept), *_demonstrations(kept)]
    train, prompts, held_part = map(Part.of, parts)
    splits = Splits(name, train, prompts, held_part, dict(+dropped), check_dropped(name, total, dropped), readings)
    check(splits, total, Counter(groups).values())
    return splits


def check_dropped(name: str, total: int, dropped: Mapping[str, int]) -> str:
    """As `check_left_out`, but records of a table without labels are no loss."""
    return check_left_out(name, total, {reason: n for reason, n in dropped.items() if reason != UNLABELLED_TABLE})


def check_left_out(where: str, total: int, left_out: Mapping[str, int], remedy: str = "repair the data") -> str:
    """A line about the records that are left out, if these are 5% of `total` or more; otherwise "".

    Args:
        where: what the records belong to, for the message.
        left_out: numbers of records by reason.
        remedy: what to do.

    Raises:
        DataError: half of the records, or more, are left out.
    """
    lost = sum(left_out.values())
    if not many_left_out(total, left_out):
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    line = f"{where}: {lost} of {total} records are left out ({reasons})"
    if lost >= REFUSE_SHARE * total:
        raise DataError(f"{line}; half or more is too much: {remedy}, or remove these records from it")
    return line


def many_left_out(total: int, left_out: Mapping[str, int]) -> bool:
    """Whether 5% or more are left out."""
    return sum(left_out.values()) >= max(1, WARN_SHARE * total)


def _groups(records: list[Hashed], whole: Set[bytes]) -> list[bytes]:
    """For each record a hash of its group, which decides the part."""
    parent: dict[bytes, bytes] = {}

    def root(anchor: bytes) -> bytes:
        while (above := parent.setdefault(anchor, anchor)) != anchor:
            parent[anchor] = anchor = parent[above]
        return anchor

    firsts = []
    for record in records:
        roots = sorted(map(root, record.anchors(whole)))
        for other in roots[1:]:  # the root of a group is its smallest hash
            parent[other] = roots[0]
        firsts.append(roots[0])
    sizes = Counter(map(root, list(parent)))
    # The smallest of several hashes is not uniformly distributed, but its hash is.
    return [content_digest(first.hex()) if sizes[first] > 1 else first for first in map(root, firsts)]


def share(digest: bytes) -> float:
    """A hash as a number in [0, 1), uniformly distributed."""
    return int.from_bytes(digest[:4], "big") / 2**32


def _clean(records: list[Hashed], dropped: Counter[str]) -> list[Hashed]:
    """Distinct records by kind and hash, without texts that have both good and bad labels."""
    ordered = _sorted(records)
    good: set[Hashable] = set()
    bad: set[Hashable] = set()
    for r in records:
        if isinstance(r.record, LabelledText) and r.record.label != 0.5:
            (good if r.record.label > 0.5 else bad).add((r.prompt, r.texts))
    if both := good & bad:
        ordered = [r for r in ordered if not isinstance(r.record, LabelledText) or (r.prompt, r.texts) not in both]
    dropped["contradictory label"] += len(records) - len(ordered)
    first: dict[Hashable, Hashed] = {}
    for r in ordered:
        first.setdefault((type(r.record), r.identity), r)
    dropped["duplicate"] += len(ordered) - len(first)
    return list(first.values())


def _sorted(records: list[Hashed]) -> list[Hashed]:
    """By kind and hash; records that have these in common by their content."""
    keys = [(KINDS.index(type(r.record)), r.key) for r in records]
    ordered = []
    for _, ties in itertools.groupby(sorted(range(len(keys)), key=keys.__getitem__), key=keys.__getitem__):
        same = [records[i] for i in ties]
        if len(same) > 1:
            same.sort(key=lambda r: content_order(r.record))
        ordered += same
    return ordered


def content_order(record: Record) -> list[Any]:
    """Something to sort records of one kind by."""
    return [order(value) for value in vars(record).values()]


def _demonstrations(records: list[Hashed]) -> dict[Demonstration, int]:
    """What SFT imitates if nothing else is given to imitate, with the places of the records that it comes from."""
    found: dict[Demonstration, int] = {}
    for i, record in enumerate(r.record for r in records):
        if isinstance(record, Demonstration):
            return {}
        if (response := imitated(record)) is not None:
            found.setdefault(Demonstration(record.prompt, response), i)  # annotators can prefer the same response
    return found


def imitated(record: Record) -> Text | None:
    """Every text without a prompt, and of responses to a prompt the good, preferred and best ones."""
    if isinstance(record, LabelledText):
        return record.text if not record.prompt or record.label >= 0.5 else None
    if isinstance(record, Demonstration | Prompt):
        return None
    if isinstance(record, Comparison):
        return {"a": record.response_a, "b": record.response_b, "tie": None}[record.choice]
    return record.responses[0]


def check(splits: Splits, total: int, sizes: Collection[int]) -> None:
    """Every part needs demonstrations or prompts; train and evaluation need labels or comparisons, if there are any.

    Args:
        splits: the parts.
        total: the number of records given.
        sizes: how many records of `train` and `prompts`, and of a cut evaluation, each group has.

    Raises:
        DataError: a part lacks them, or all training labels are the same.
    """
    empty = [name for name, part in splits.parts.items() if not (part.demonstrations or part.to_answer)]
    if not empty:
        rated = {name: part.judged for name, part in splits.parts.items()}
        empty = [
            name for name in ("train", "evaluation") if not rated[name] and (rated["train"] or rated["evaluation"])
        ]
    if empty:
        left_out = ", ".join(f"{count} {reason}" for reason, count in splits.dropped.items())
        count = sum(sizes)
        remedy = "add records: at least about 100 are needed"
        largest = max(sizes, default=0) / max(1, count)
        if count >= FEW_GROUPS and largest > REFUSE_SHARE:
            remedy = f"{largest:.0%} of the records share texts or prompts and must stay in one part: add others"
        elif len(sizes) < FEW_GROUPS <= count:
            remedy = f"the records have only {len(sizes)} distinct prompts or groups of texts: add others"
        raise DataError(
            f"{splits.name}: no records are left for {' and '.join(empty)} out of {total}"
            f"{f' (left out: {left_out})' if left_out else ''}; {remedy}"
        )
    labelled = splits.train.labelled
    if labelled and all(text.label == labelled[0].label for text in itertools.islice(labelled, 1, None)):
        raise DataError(
            f"{splits.name}: all {len(labelled)} training labels are {labelled[0].label}: "
            "add texts with the other label, because a reward model learns from both"
        )
