"""Large data sets: records in a memory-mapped Arrow file of the user's cache, cut in parts with arrays of hashes.

`build` gives what `splits.split` gives, which keeps everything in memory: the same parts in the same order. Here a
record is JSON in a file, and about 450 bytes of hashes and numbers in memory while the parts are cut. Afterwards
only the records that are used are in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, groupby, islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from filelock import FileLock

from plaudit import fetching, files
from plaudit.data.cutting import Hashes, cut
from plaudit.data.hashed import Record
from plaudit.data.options import Config
from plaudit.data.splits import KINDS, PARTS, UNLABELLED_TABLE, Part, Splits, check, check_dropped, imitated
from plaudit.data.tables import Reading
from plaudit.records import Demonstration, Message

ROWS, BYTES = 200_000, 1 << 28  # a data set with as many rows, or in files as large, is stored
_BATCH = 1 << 14  # records that are written, or read one after the other, at once
_ENCODED = 1 << 8  # records that are encoded and hashed at once
_UNUSED = 30 * 24 * 3600  # seconds after which an entry that nobody has opened is removed
_COLLECTED, _RECORDS, _ABOUT = "records.jsonl", "records.arrow", "splits.json"

T = TypeVar("T")
Collect = Callable[[Iterable[Record]], object]
Fill = Callable[[Collect, Collect], tuple["Counter[str]", tuple[Reading, ...]]]

_encode = json.JSONEncoder(default=vars).encode


def _contents(records: list[dict[str, Any]]) -> list[bytes]:
    """The fields of records of one kind as JSON, as in `Splits.fingerprint`; together, which takes half of the time."""
    if not records:
        return []
    start = f'{{"{next(iter(records[0]))}": '
    # `}, {"text": ` is only between records: in a text a quote has a backslash, and after its end there is no letter.
    parts = _encode(records)[len(start) + 1 : -2].split(f"}}, {start}")
    return [f"{start}{part}}}".encode() for part in parts]


def _decode(kind: type[T], content: bytes) -> T:
    return kind(**{name: _value(value) for name, value in json.loads(content).items()})


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_value, value))
    return Message(**value) if isinstance(value, dict) else value


class Records(Sequence[T], Generic[T]):
    """Records of one kind that stay in their file until they are used."""

    def __init__(self, kind: type[T], column: Any, places: range) -> None:
        """`places` are the rows of these records in the Arrow column `column`."""
        self._kind, self._column, self._places = kind, column, places

    def __len__(self) -> int:
        """The number of records."""
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Records[T]: ...
    def __getitem__(self, at: int | slice) -> T | Records[T]:
        """One record, or several that stay in their file."""
        if isinstance(at, slice):
            return Records(self._kind, self._column, self._places[at])
        return _decode(self._kind, self._column[self._places[at]].as_py())

    def __iter__(self) -> Iterator[T]:
        """The records, of which a batch is in memory."""
        for start in range(0, len(self._places), _BATCH):
            some = self._places[start : start + _BATCH]
            contents = (
                self._column.slice(some.start, len(some)) if some.step == 1 else map(self._column.__getitem__, some)
            )
            for content in contents:
                yield _decode(self._kind, content.as_py())


def is_large(rows: int, size: int) -> bool:
    """Whether a data set with so many rows, in files of `size` bytes, is stored."""
    return rows >= ROWS or size >= BYTES


def entry(config: Config, versions: object) -> Path:
    """The folder of a data set in the cache, named by its settings, the versions of its files and our own code."""
    paths = [os.path.abspath(os.path.expanduser(name)) for name in (config.name, config.evaluation)]
    digests = [hashlib.sha256(repr(content).encode()) for content in ((config, paths), versions)]
    for path in sorted(Path(__file__).parent.glob("*.py")):  # another way of reading gives other records
        digests[1].update(path.read_bytes())
    return fetching.cache() / "data" / "-".join(digest.hexdigest()[:20] for digest in digests)


def opened(folder: Path) -> Splits | None:
    """The data set in an entry of the cache; None if it is not there."""
    import pyarrow

    try:
        about = json.loads((folder / _ABOUT).read_bytes())
        column = pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / _RECORDS))).read_all()["record"]
        os.utime(folder / _ABOUT)
    except (OSError, ValueError, pyarrow.ArrowException):  # never written, removed, or damaged
        return None
    ranges = [range(*one) for one in about["ranges"]]
    train, prompts, evaluation = (
        Part(*(Records(kind, column, one) for kind, one in zip(KINDS, ranges[at : at + len(KINDS)], strict=True)))
        for at in range(0, len(ranges), len(KINDS))
    )
    readings = tuple(
        Reading(**one | {name: tuple(one[name]) for name in ("used", "ignored")}) for one in about["readings"]
    )
    splits = Splits(about["name"], train, prompts, evaluation, about["dropped"], about["warning"], readings)
    vars(splits)["fingerprint"] = about["fingerprint"]  # computed while the records were written
    return splits


def build(name: str, folder: Path, fill: Fill) -> Splits:
    """Write a data set into the cache and open it, unless another process has just done so.

    Args:
        name: of the data set, in the settings.
        folder: its entry.
        fill: collects the records for training, and those held out; returns how many rows were left out, by reason,
            and how the tables were read.

    Raises:
        OSError: the cache cannot be written.
        DataError: as in `splits.split`, and from `fill`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = folder.name.partition("-")[0]
    with FileLock(folder.parent / f"{settings}.lock"):  # the processes of one torchrun start together
        if (splits := opened(folder)) is not None:
            return splits
        _sweep(folder.parent, settings)
        unfinished = files.partial_of(folder)
        unfinished.mkdir()
        try:
            _write(name, unfinished, fill)
            files.move_folder(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if (splits := opened(folder)) is None:
            raise OSError(f"{folder} is damaged")
        return splits


def _sweep(cache: Path, settings: str) -> None:
    """Remove entries for older versions of the same files, and those that nobody has opened for a month."""
    for path in [path for path in cache.iterdir() if path.is_dir()]:
        used = max(one.stat().st_mtime for one in (path, *path.glob(_ABOUT)))
        if path.name.lstrip(".").startswith(settings) or time.time() - used > _UNUSED:
            shutil.rmtree(path, ignore_errors=True)


def _write(name: str, folder: Path, fill: Fill) -> None:
    """Collect the records in a file, then write them again in the order of the parts."""
    import pyarrow

    hashes, ends = Hashes(), array("q", [1])
    with (folder / _COLLECTED).open("wb", 1 << 20) as file:
        file.write(b"\n")  # an empty file cannot be mapped

        def collect(records: Iterable[Record], held_out: bool) -> None:
            for _, same in groupby(records, type):
                while some := list(islice(same, _ENCODED)):
                    made = [(one.prompt, imitated(one)) for one in some]
                    copies = iter(_contents([{"prompt": p, "response": r} for p, r in made if r is not None]))
                    both = _contents(list(map(vars, some))), [b"" if r is None else next(copies) for _, r in made]
                    contents = list(chain.from_iterable(zip(*both, strict=True)))
                    file.writelines(contents)
                    hashes.extend(some, held_out, contents[1::2])
                    ends.extend(islice(accumulate(map(len, contents), initial=ends[-1]), 1, None))

        dropped, readings = fill(partial(collect, held_out=False), partial(collect, held_out=True))
    mapped = pyarrow.memory_map(str(folder / _COLLECTED)).read_buffer()
    # Each record is followed by the demonstration that it gives.
    contents = pyarrow.Array.from_buffers(
        pyarrow.large_binary(), len(ends) - 1, [None, pyarrow.py_buffer(ends), mapped]
    )
    total = len(ends) // 2 + sum(dropped.values()) - dropped[UNLABELLED_TABLE]

    def read(row: int) -> Record:
        return _decode(KINDS[hashes.kinds[row]], contents[2 * row].as_py())  # type: ignore[return-value]  # noqa: F821

    parts, sizes = cut(hashes, dropped, read)
    warning = check_dropped(name, total, dropped)
    kinds, digest, ranges, at = np.frombuffer(hashes.kinds, np.uint8), hashlib.sha256(), [], 0
    schema = pyarrow.schema([("record", pyarrow.large_binary())])
    with pyarrow.ipc.new_file(str(folder / _RECORDS), schema) as out:
        for part, (rows, made) in zip(PARTS, parts, strict=True):
            for i, kind in enumerate(KINDS):
                places = 2 * rows[kinds[rows] == i]
                if kind is Demonstration:
                    places = np.concatenate([places, 2 * made + 1])
                ranges.append([at, at := at + len(places)])
                start = f"{json.dumps([part, kind.__name__])[:-1]}, ".encode()
                between = b"]" + start
                for first in range(0, len(places), _BATCH):
                    at_once = np.ascontiguousarray(places[first : first + _BATCH])
                    some = contents.take(
                        pyarrow.Array.from_buffers(pyarrow.int64(), len(at_once), [None, pyarrow.py_buffer(at_once)])
                    )
                    out.write_batch(pyarrow.record_batch([some], schema=schema))
                    digest.update(start + between.join(some.to_pylist()) + b"]")
    about = {
        "name": name,
        "ranges": ranges,
        "dropped": dict(+dropped),
        "warning": warning,
        "readings": list(map(vars, readings)),
        "fingerprint": digest.hexdigest(),
    }
    files.write_json(folder / _ABOUT, about)
    if (splits := opened(folder)) is not None:
        check(splits, total, sizes)
    del contents, mapped, some
    (folder / _COLLECTED).unlink()
