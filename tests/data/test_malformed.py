"""No data file, whatever is in it, gives anything but records or one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.data.corpus import load
from plaudit.data.files import SUFFIXES
from plaudit.errors import DataError

NAMES = st.sampled_from(["text", "label", "prompt", "response", "chosen", "rejected", "choice", "answer", "Text ", ""])
ODD = ["", " ", "0", "1", "-1", "nan", "a", "é", '"', "'", "\t", ";", ",", "\n", "\r", "\x00", "\ufeff", "\u2028"]
CELLS = st.one_of(st.sampled_from(ODD), st.text(max_size=8))
VALUES: Any = st.recursive(
    st.one_of(CELLS, st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2)),
    max_leaves=4,
)
OBJECTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=5)


def as_table(header: list[str], rows: list[list[str]], delimiter: str, end: str) -> str:
    return end.join(delimiter.join(cells) for cells in [header, *rows])


TEXTS = st.one_of(
    st.builds(
        as_table,
        st.lists(NAMES, max_size=4),
        st.lists(st.lists(CELLS, max_size=5), max_size=5),
        st.sampled_from([",", ";", "\t", "|"]),
        st.sampled_from(["\n", "\r\n", "\r"]),
    ),
    OBJECTS.map(lambda rows: "\n".join(map(json.dumps, rows))),
    st.builds(json.dumps, OBJECTS, indent=st.sampled_from([None, 1])),
    st.text(max_size=30),
)
CONTENTS = st.one_of(
    st.builds(
        lambda text, encoding: text.encode(encoding, "surrogatepass"),
        TEXTS,
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    ),
    st.binary(max_size=60),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENTS, st.sampled_from(SUFFIXES), st.integers(0, 8))
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, content: bytes, suffix: str, cut: int) -> None:
    message = outcome(tmp_path / f"data{suffix}", content[: len(content) - cut])
    assert message is None or (message.startswith(str(tmp_path)) and len(message) < 800 and "\n" not in message)


def outcome(path: Path, content: bytes) -> str | None:
    path.write_bytes(content)
    try:
        load(str(path))
    except DataError as error:
        return str(error)
    return None


def test_every_kind_of_damage_to_parquet_is_refused_in_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    import pyarrow
    import pyarrow.parquet

    whole = tmp_path / "whole.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"] * 50, "label": [0, 1] * 50}), whole)
    content = whole.read_bytes()
    for place in range(4, len(content), 37):
        path = tmp_path / "damaged.parquet"
        for damaged in (content[:place], content[:place] + b"\xff" * 4 + content[place + 4 :]):
            path.write_bytes(damaged)
            assert refused(lambda path=path: load(str(path))).startswith(str(path))
