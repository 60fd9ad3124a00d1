"""What a trial is, what can go wrong in it, and the table of all trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.crashes.bench import Bench

KINDS = {  # of problems, with the heads of the table's columns
    "difference": "differences after resume",
    "traceback": "tracebacks",
    "silent": "silent uses",
    "hang": "hangs",
    "unclear": "unclear endings",
}


class Problem(NamedTuple):
    """One thing that went wrong in a trial.

    Attributes:
        kind: a key of KINDS. "unclear": the exit code is wrong, or no single line says what is wrong and where.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Trial:
    """One experiment on plaudit. It depends on nothing but its name.

    Attributes:
        name: "part/what/..."; `python -m tests.crashes --only NAME` repeats it.
        check: does it, and returns what went wrong.
        size: how many single inputs it tries.
    """

    name: str
    check: Callable[[Bench], list[Problem]]
    size: int = 1

    @property
    def part(self) -> str:
        """The row of the table that counts it."""
        return self.name.partition("/")[0]


def sample(trials: Sequence[Any], count: int) -> list[Any]:
    """`count` of the trials, at equal distances."""
    count = min(count, len(trials))
    return [trials[(2 * i + 1) * len(trials) // (2 * count)] for i in range(count)]


def table(results: Iterable[tuple[Trial, list[Problem]]]) -> str:
    """One row for each part, and a last line that says whether all is well."""
    rows: dict[str, dict[str, int]] = {}
    for trial, problems in results:
        row = rows.setdefault(trial.part, dict.fromkeys(("trials", *KINDS), 0))
        row["trials"] += trial.size
        for problem in problems:
            row[problem.kind] += 1
    heads = ["part", "trials", *KINDS.values()]
    cells = [[part, *map(str, row.values())] for part, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = []
    for row in (heads, *cells):
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *padded[1:]]))
    bad = sum(row[kind] for row in rows.values() for kind in KINDS)
    return "\n".join([*lines, f"not ok: {bad} problems" if bad else "ok"])
