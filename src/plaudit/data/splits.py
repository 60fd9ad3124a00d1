"""Train, prompts and evaluation: three parts that never share a prompt or a text.

A record goes where the hash of its prompt (of its text, where there is no prompt) sends it. So the parts do
not depend on the order of the file, and a record stays in its part when the file grows.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

from plaudit.data.text import content_hash
from plaudit.errors import DataError
from plaudit.records import Comparison, Demonstration, LabelledText

Record = LabelledText | Demonstration | Comparison
R = TypeVar("R", LabelledText, Demonstration, Comparison)

TRAIN_SHARE, PROMPTS_SHARE = 0.8, 0.1  # evaluation has the rest
TRAIN_SHARE_BESIDE_HELD_OUT = 0.9  # prompts have the rest


@dataclass(frozen=True)
class Part:
    """Records of each kind, sorted by the hash of their prompt or text: an order that favours no label."""

    labelled: tuple[LabelledText, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def __len__(self) -> int:
        return len(self.labelled) + len(self.demonstrations) + len(self.comparisons)


@dataclass(frozen=True)
class Splits:
    """A data set, cut for the stages of a run.

    Attributes:
        name: what the user asked for.
        train: SFT and the reward model learn from it.
        prompts: PPO's prompts are cut from it.
        evaluation: held out for perplexity, reward accuracy and the prompts of the evaluation.
        dropped: how many records were left out, by reason.
    """

    name: str
    train: Part
    prompts: Part
    evaluation: Part
    dropped: dict[str, int]


def split(name: str, records: Iterable[Record], held_out: Iterable[Record], dropped: Counter[str]) -> Splits:
    """Clean `records`, derive demonstrations where there are none, and cut the three parts.

    Args:
        name: the data set's name, for errors.
        records: what to cut train and prompts from, and evaluation too when `held_out` is empty.
        held_out: records that come as an evaluation split of their own.
        dropped: what was left out before, by reason; what is left out here is added.

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
        pool = _clean(given, dropped)
        train, prompts, held = _cut(pool, TRAIN_SHARE, TRAIN_SHARE + PROMPTS_SHARE)
    splits = Splits(name, train, prompts, held, dict(+dropped))
    _check(splits, total)
    return splits


def key(record: Record) -> str:
    """The hash that decides a record's part: of its prompt, or of its text where the prompt is empty."""
    if isinstance(record, LabelledText):
        return content_hash(record.text)
    if record.prompt:
        return content_hash(record.prompt)
    if isinstance(record, Demonstration):
        return content_hash(record.response)
    return content_hash(" ".join(sorted((record.response_a, record.response_b))))  # whoever is preferred by whom


def share(digest: str) -> float:
    """A hash as a number in [0, 1), evenly spread."""
    return int(digest[:8], 16) / 16**8


def _preferred(comparison: Comparison) -> str:
    return comparison.response_b if comparison.choice == "b" else comparison.response_a


def _clean(records: Sequence[Record], dropped: Counter[str]) -> Part:
    """Each record once, in the order of its hash; demonstrations are derived when there are none."""
    labelled = _consistent(_in_order(LabelledText, records), dropped)
    demonstrations = _distinct(
        _in_order(Demonstration, records),
        lambda r: (content_hash(r.prompt), content_hash(r.response)),
        dropped,
    )
    # The annotator is part of a comparison's identity: two people who agree are two votes.
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
    """Each text once; none of the copies of a text that was labelled both ways."""
    copies: defaultdict[str, list[LabelledText]] = defaultdict(list)
    for text in texts:
        copies[content_hash(text.text)].append(text)
    kept = []
    for same in copies.values():
        if len({text.label for text in same}) > 1:
            dropped["contradictory label"] += len(same)
        else:
            dropped["duplicate"] += len(same) - 1
            kept.append(same[0])
    return kept


def _derived(labelled: list[LabelledText], comparisons: list[Comparison]) -> list[Demonstration]:
    """Demonstrations out of judged texts: every text, whatever its label, and every preferred response."""
    texts = [Demonstration("", text.text) for text in labelled]
    responses = [Demonstration(c.prompt, _preferred(c)) for c in comparisons if c.choice != "tie"]
    return list(dict.fromkeys(texts + responses))  # people who agree show the same response


def _cut(pool: Part, *edges: float) -> list[Part]:
    """`pool` cut at these shares of the range of hashes: one part more than edges."""

    def bins(records: tuple[R, ...]) -> list[tuple[R, ...]]:
        cut: list[list[R]] = [[] for _ in range(len(edges) + 1)]
        for record in records:
            cut[bisect.bisect_right(edges, share(key(record)))].append(record)
        return [tuple(records) for records in cut]

    return [
        Part(*kinds)
        for kinds in zip(bins(pool.labelled), bins(pool.demonstrations), bins(pool.comparisons), strict=True)
    ]


def _check(splits: Splits, total: int) -> None:
    """Every stage must find something to work on."""
    parts = {"train": splits.train, "prompts": splits.prompts, "evaluation": splits.evaluation}
    # Prompts are never judged, so that part does without labels and comparisons.
    judged = {n: len(p.labelled) + len(p.comparisons) for n, p in parts.items() if n != "prompts"}
    empty = [n for n, p in parts.items() if not p.demonstrations]
    if not empty and any(judged.values()):
        empty = [n for n, count in judged.items() if not count]
    if empty:
        left_out = ", ".join(f"{count} {reason}" for reason, count in splits.dropped.items())
        raise DataError(
            f"{splits.name}: nothing is left for {' and '.join(empty)} out of {total} records"
            f"{f' (left out: {left_out})' if left_out else ''}: more are needed, about 100 or above"
        )
    labels = {text.label for text in splits.train.labelled}
    if len(labels) == 1:
        raise DataError(
            f"{splits.name}: every label to train on is {labels.pop()} ({len(splits.train.labelled)} texts): "
            "a reward model learns from good and bad texts alike"
        )
