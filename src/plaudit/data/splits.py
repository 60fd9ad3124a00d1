"""Train, prompts and evaluation: three parts that never share a prompt or a text.

Records that share a prompt, a text or the beginning of a dialogue form a group, and so do records that are connected
through others. A hash decides the part of a whole group. So the parts do not depend on the order of a file, and a
record stays in its part when the file grows, unless a new record connects its group with another.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import astuple, dataclass
from functools import cached_property

from plaudit.data.text import content_hash
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

Record = LabelledText | Demonstration | Comparison

TRAIN_SHARE, PROMPTS_SHARE = 0.8, 0.1  # evaluation gets the rest
TRAIN_SHARE_BESIDE_HELD_OUT = 0.9  # prompts get the rest
WARN_SHARE, REFUSE_SHARE = 0.05, 0.5  # of the records left out
FEW_GROUPS = 20  # fewer rarely fill three parts
UNLABELLED_TABLE = "in a table without labels"  # such as the test split of a benchmark: these records are not a loss
REPLY = "\n\nAssistant:"  # begins a reply in dialogues such as those of HH-RLHF
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
    warning: str = ""  # one line, if many were

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
        DataError: a part would be empty, all training labels are the same, or half of the records would be left out.
    """
    dropped = Counter(dropped)
    given, evaluation = list(records), list(held_out)
    total = len(given) + len(evaluation) + sum(dropped.values()) - dropped[UNLABELLED_TABLE]
    whole = {content_hash(text) for r in given + evaluation for text in _whole_texts(r)}
    edges = [TRAIN_SHARE, TRAIN_SHARE + PROMPTS_SHARE]
    if evaluation:
        edges = [TRAIN_SHARE_BESIDE_HELD_OUT]
        held = {anchor for r in evaluation for anchor in anchors(r, whole)}
        fresh = [r for r in given if held.isdisjoint(anchors(r, whole))]
        dropped["also in evaluation"] += len(given) - len(fresh)
        given = fresh
    clean = _clean(given, dropped)
    groups = _groups(clean, whole)
    parts: list[list[Record]] = [[], [], []]
    for record, group in zip(clean, groups, strict=True):
        parts[bisect.bisect_right(edges, share(group))].append(record)
    parts[2] += _clean(evaluation, dropped)
    train, prompts, held_part = map(Part.of, parts)
    warning = check_left_out(name, total, {reason: n for reason, n in dropped.items() if reason != UNLABELLED_TABLE})
    splits = Splits(name, train, prompts, held_part, dict(+dropped), warning)
    _check(splits, total, groups)
    return splits


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
    if lost < max(1, WARN_SHARE * total):
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    line = f"{where}: {lost} of {total} records are left out ({reasons})"
    if lost >= REFUSE_SHARE * total:
        raise DataError(f"{line}; half or more is too much: {remedy}, or remove these records from it")
    return line


def _whole_texts(record: Record) -> tuple[str, ...]:
    """The texts of a record that has no prompt."""
    if isinstance(record, LabelledText):
        return (record.text,)
    return () if record.prompt else _responses(record)


def _responses(record: Demonstration | Comparison) -> tuple[str, ...]:
    return (record.response,) if isinstance(record, Demonstration) else (record.response_a, record.response_b)


def anchors(record: Record, whole: Set[str]) -> set[str]:
    """Hashes of what no other part may contain. Records that have one in common belong to one group.

    They are the prompt; without a prompt, every text, and the lines that both texts of a comparison begin with; of
    dialogues, the first turn. The same response to different prompts is no leak, unless it is also a whole text.

    Args:
        whole: hashes of the texts that stand without a prompt.
    """
    if isinstance(record, LabelledText) or not record.prompt:
        texts = list(_whole_texts(record))
        texts += [text.partition(REPLY)[0] for text in texts if REPLY in text]
        if isinstance(record, Comparison):
            texts.append(common_beginning(*texts[:2]).rpartition("\n")[0])
        return {content_hash(text) for text in texts if text.strip()}
    opening = record.prompt.partition(REPLY)[0]
    responses = {content_hash(text) for text in _responses(record)}
    return {content_hash(opening if opening.strip() else record.prompt)} | (responses & whole)


def common_beginning(one: str, other: str) -> str:
    """The characters that both texts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving compares slices, which is fast for long texts
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return one[:low]


def _groups(records: list[Record], whole: Set[str]) -> list[str]:
    """For each record a hash of its group, which decides the part."""
    parent: dict[str, str] = {}

    def root(anchor: str) -> str:
        while parent.setdefault(anchor, anchor) != anchor:
            parent[anchor] = anchor = parent[parent[anchor]]
        return anchor

    firsts = []
    for record in records:
        roots = sorted(root(anchor) for anchor in anchors(record, whole))
        for other in roots:  # the root of a group is its smallest hash
            parent[other] = roots[0]
        firsts.append(roots[0])
    sizes = Counter(map(root, list(parent)))
    # The smallest of several hashes is not uniformly distributed, but its hash is.
    return [content_hash(first) if sizes[first] > 1 else first for first in map(root, firsts)]


def key(record: Record) -> str:
    """The hash by which records are sorted: of the prompt, or of the text if there is no prompt."""
    if isinstance(record, LabelledText):
        return content_hash(record.text)
    if record.prompt:
        return content_hash(record.prompt)
    if isinstance(record, Demonstration):
        return content_hash(record.response)
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


def _check(splits: Splits, total: int, groups: list[str]) -> None:
    """Every part needs demonstrations; train and evaluation need labels or comparisons, if there are any."""
    empty = [name for name, part in splits.parts.items() if not part.demonstrations]
    if not empty:
        rated = {name: bool(part.labelled or part.comparisons) for name, part in splits.parts.items()}
        empty = [
            name for name in ("train", "evaluation") if not rated[name] and (rated["train"] or rated["evaluation"])
        ]
    if empty:
        left_out = ", ".join(f"{count} {reason}" for reason, count in splits.dropped.items())
        sizes = Counter(groups)
        remedy = "add records: at least about 100 are needed"
        largest = max(sizes.values(), default=0) / max(1, len(groups))
        if len(groups) >= FEW_GROUPS and largest > REFUSE_SHARE:
            remedy = f"{largest:.0%} of the records share texts or prompts and must stay in one part: add others"
        elif len(sizes) < FEW_GROUPS <= len(groups):
            remedy = f"the records have only {len(sizes)} distinct prompts or groups of texts: add others"
        raise DataError(
            f"{splits.name}: no records are left for {' and '.join(empty)} out of {total}"
            f"{f' (left out: {left_out})' if left_out else ''}; {remedy}"
        )
    labels = {text.label for text in splits.train.labelled}
    if len(labels) == 1:
        raise DataError(
            f"{splits.name}: all {len(splits.train.labelled)} training labels are {labels.pop()}: "
            "add texts with the other label, because a reward model learns from both"
        )
