"""The cut of `splits.split` with arrays: which records are left out, and in which order and part the others are."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from plaudit.data.hashed import Hashed, Record
from plaudit.data.splits import EDGES, EDGES_BESIDE_HELD_OUT, KINDS, content_order, share
from plaudit.data.text import content_digest
from plaudit.records import Demonstration, LabelledText

_DEMONSTRATION = KINDS.index(Demonstration)
_GOOD, _BAD = 1, 2


class Hashes:
    """What decides about each record, by its row. A hash has 32 bytes, or the first 16 where only equality counts."""

    def __init__(self) -> None:
        self.kinds, self.held_out, self.prompted = bytearray(), bytearray(), bytearray()
        self.says = bytearray()  # of a label: good, bad, or 0 for neither
        self.keys, self.pairs = bytearray(), bytearray()  # 16 bytes: the key; the prompt and the texts
        self.opinions = array("q")  # numbers of the distinct values of Hashed.opinion
        self.made, self.makes = bytearray(), bytearray()  # 16 bytes of the demonstration; whether there is one
        self.anchors, self.is_text = bytearray(), bytearray()  # 32 bytes; whether it is of a text, or of an opening
        self.counts = array("q")  # of the anchors of each record
        self._numbers: dict[Hashable, int] = {}

    def extend(self, records: Sequence[Record], held_out: bool, made: Sequence[bytes]) -> None:
        """More records of one kind, and the contents of the demonstrations that they give; empty if they give none."""
        hashed = list(map(Hashed, records))
        anchors = [(one.texts, one.openings()) for one in hashed]
        self.kinds += bytes([KINDS.index(type(records[0]))]) * len(records)
        self.held_out += bytes([held_out]) * len(records)
        self.prompted += bytes([one.prompt != b"" for one in hashed])
        self.says += bytes([_says(one.opinion) for one in hashed] if type(records[0]) is LabelledText else len(records))
        self.keys += b"".join([one.key[:16] for one in hashed])
        self.pairs += b"".join(map(_pair, hashed))
        number = self._numbers.setdefault
        self.opinions.extend([number(one.opinion, len(self._numbers)) for one in hashed])
        self.made += b"".join([hashlib.blake2s(content, digest_size=16).digest() for content in made])
        self.makes += bytes(map(bool, made))
        self.anchors += b"".join([anchor for both in anchors for some in both for anchor in some])
        self.is_text += b"".join([b"\1" * len(texts) + bytes(len(openings)) for texts, openings in anchors])
        self.counts.extend([len(texts) + len(openings) for texts, openings in anchors])


def _says(label: Any) -> int:
    return _GOOD if label > 0.5 else _BAD if label < 0.5 else 0


def _pair(hashed: Hashed) -> bytes:
    """16 bytes that records with the same prompt and texts have in common."""
    if len(hashed.texts) == 1 and not hashed.prompt:
        return hashed.texts[0][:16]
    return hashlib.sha256((hashed.prompt or bytes(32)) + b"".join(hashed.texts)).digest()[:16]


def cut(hashes: Hashes, dropped: Counter[str], record: Callable[[int], Record]) -> tuple[list[Any], list[int]]:
    """The rows of each part and the sizes of the groups of records that stay together.

    Args:
        hashes: of all records.
        dropped: counts the records that are left out, by reason.
        record: reads one record by its row.

    Returns:
        For each part (rows of records, rows of records of which the part has a demonstration), sorted as in `split`;
        and how many of these each group has.
    """
    held_out = _booleans(hashes.held_out)
    codes, digests = _codes(hashes.anchors, 32)
    rows = np.repeat(np.arange(len(held_out)), hashes.counts)
    is_text = _booleans(hashes.is_text)
    whole = np.zeros(len(digests), bool)  # texts that stand without a prompt
    whole[codes[is_text & ~_booleans(hashes.prompted)[rows]]] = True
    counts = ~is_text | whole[codes]
    rows, codes = rows[counts], codes[counts]
    leaks = np.zeros(len(held_out), bool)
    edges = EDGES
    if held_out.any():
        edges = EDGES_BESIDE_HELD_OUT
        held = np.zeros(len(digests), bool)
        held[codes[held_out[rows]]] = True
        leaks[rows[held[codes]]] = True
        leaks &= ~held_out
        dropped["also in evaluation"] += int(leaks.sum())
    pairs, _ = _codes(hashes.pairs, 16)
    clean = _clean(hashes, np.flatnonzero(~held_out & ~leaks), pairs, dropped, record)
    made = _made(hashes, clean)
    group, shares = _groups(rows, codes, digests, clean)
    part = np.searchsorted(edges, shares, side="right")[group]
    kept = _clean(hashes, np.flatnonzero(held_out), pairs, dropped, record)
    parts: list[Any] = [(clean[part[clean] == i], made[part[made] == i]) for i in range(3)]
    if len(edges) == 1:
        parts[2] = kept, _made(hashes, kept)
    return parts, np.bincount(group[np.concatenate([clean, made])]).tolist()


def _booleans(values: bytearray) -> Any:
    return np.frombuffer(values, np.uint8).astype(bool)


def _codes(digests: bytearray, width: int) -> tuple[Any, Any]:
    """The number of each digest among the distinct ones, and these, as rows of bytes."""
    import pyarrow

    kind = pyarrow.binary(width)
    whole = pyarrow.Array.from_buffers(kind, len(digests) // width, [None, pyarrow.py_buffer(digests)])
    encoded = whole.dictionary_encode()  # with indices of 32 bits
    distinct = np.frombuffer(encoded.dictionary.buffers()[1] or b"", np.uint8)
    indices = np.frombuffer(encoded.indices.buffers()[1] or b"", np.int32)  # to_numpy would import pandas
    return indices[: len(whole)], distinct[: len(encoded.dictionary) * width].reshape(-1, width)


def _clean(hashes: Hashes, rows: Any, pairs: Any, dropped: Counter[str], record: Callable[[int], Record]) -> Any:
    """As in splits.py: distinct records by kind and key, without texts that have both good and bad labels."""
    kinds = np.frombuffer(hashes.kinds, np.uint8)
    rows = _sorted(rows, kinds, np.frombuffer(hashes.keys, ">u8").reshape(-1, 2), record)
    says = np.frombuffer(hashes.says, np.uint8)[rows]
    good, bad = np.zeros((2, pairs.max(initial=-1) + 1), bool)
    good[pairs[rows[says == _GOOD]]] = True
    bad[pairs[rows[says == _BAD]]] = True
    contradictory = (good & bad)[pairs[rows]] & (kinds[rows] == KINDS.index(LabelledText))
    dropped["contradictory label"] += int(contradictory.sum())
    rows = rows[~contradictory]
    opinions = np.frombuffer(hashes.opinions, np.int64)
    identity = (pairs[rows] * (opinions.max(initial=0) + 1) + opinions[rows]) * len(KINDS) + kinds[rows]
    first = _first(identity)
    dropped["duplicate"] += len(rows) - len(first)
    return rows[first]


def _sorted(rows: Any, kinds: Any, keys: Any, record: Callable[[int], Record]) -> Any:
    """Rows by kind and key; those that have these in common by the content of their records."""
    high, low = (keys[rows, i].astype(np.uint64) for i in (0, 1))
    order = np.lexsort((low, high, kinds[rows]))
    rows, high, low = rows[order], high[order], low[order]
    differs = (np.diff(kinds[rows]) != 0) | (np.diff(high) != 0) | (np.diff(low) != 0)
    bounds = np.concatenate([[0], np.flatnonzero(differs) + 1, [len(rows)]])
    several = np.flatnonzero(np.diff(bounds) > 1)
    for start, stop in zip(bounds[several].tolist(), bounds[several + 1].tolist(), strict=True):
        rows[start:stop] = sorted(rows[start:stop].tolist(), key=lambda row: content_order(record(row)))
    return rows


def _first(values: Any) -> Any:
    """Places of the first of equal values, in order."""
    return np.sort(np.unique(values, return_index=True)[1])


def _made(hashes: Hashes, rows: Any) -> Any:
    """Those of `rows` whose records give the demonstrations, if there are none in the data."""
    if (np.frombuffer(hashes.kinds, np.uint8)[rows] == _DEMONSTRATION).any():
        return rows[:0]
    rows = rows[_booleans(hashes.makes)[rows]]
    return rows[_first(_codes(hashes.made, 16)[0][rows])]


def _groups(rows: Any, codes: Any, digests: Any, clean: Any) -> tuple[Any, Any]:
    """The group of each row, and the share of each group, from pairs of a row and the code of one of its anchors."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group = np.zeros(rows.max(initial=-1) + 1, np.int64)
    some = np.zeros(len(group), bool)
    some[clean] = True
    rows, codes = rows[some[rows]], codes[some[rows]]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    firsts = np.repeat(codes[starts], np.diff(starts, append=len(rows)))
    graph = coo_array((np.ones(len(codes), bool), (firsts, codes)), shape=(len(digests),) * 2)
    component = connected_components(graph, directed=False)[1] if len(digests) else np.zeros(0, int)
    group[rows[starts]] = component[codes[starts]]
    used = np.unique(codes)
    sizes = np.bincount(component[used], minlength=1)
    shares = np.zeros(len(sizes))
    shares[component[used]] = np.ascontiguousarray(digests[used, :4]).view(">u4")[:, 0] / 16**8
    smallest: dict[int, bytes] = {}  # anchor of each group that has several
    for code in used[sizes[component[used]] > 1].tolist():
        digest, at = digests[code].tobytes(), int(component[code])
        smallest[at] = min(digest, smallest.get(at, digest))
    for at, digest in smallest.items():
        shares[at] = share(content_digest(digest.hex()))
    return group, shares
