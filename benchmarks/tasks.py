"""What plaudit's and TRL's trainers learn from: the same batches of the same texts, pairs and prompts, as token ids.

TRL's environment imports this module too, so it uses nothing of plaudit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from benchmarks.workload import PROMPT_TOKENS, Workload, eos_id_of, texts

Text = tuple[tuple[int, ...], tuple[int, ...]]  # ids of a prompt, which may be empty, and of what follows it
Record = tuple[Text, ...]  # one text to imitate; or two, of which people prefer the first

NAMES = ("sft", "sft-packed", "reward-model", "dpo", "grpo", "rloo")
SAMPLED = ("grpo", "rloo")  # the others learn from records
LONGEST = 64  # tokens of a text, end token included
ROW = 256  # tokens of a packed row
GROUP = 8  # responses to each prompt
KL_COEF = {"grpo": 0.0, "rloo": 0.05}  # TRL's defaults


@dataclass(frozen=True)
class Task:
    """The batches of the optimizer steps, in their order.

    Attributes:
        batches: records of each optimizer step; of a packed task, the texts of one row.
        eos_id, pad_id: ids of the end token, with which every text ends, and of a token that is in no text.
    """

    name: str
    batches: tuple[tuple[Record, ...], ...]
    eos_id: int
    pad_id: int

    def tokens(self) -> list[int]:
        """Tokens of each batch, prompts and end tokens included and padding excluded."""
        return [sum(map(length, chain(*batch))) for batch in self.batches]


def make(name: str, size: str, data: Path, steps: int, batch_size: int = 8, seed: int = 1) -> Task:
    """The batches of `steps` optimizer steps. The same arguments always give the same ones.

    Args:
        name: one of NAMES, not of SAMPLED.
        size, data: as in `workload.make`.
        batch_size: records in one step.
    """
    draw = random.Random(seed)
    eos_id = eos_id_of(size)
    found = ((*ids[: LONGEST - 1], eos_id) for ids in texts(size, data, draw) if len(ids) >= PROMPT_TOKENS[0])
    ends = (ids for ids in found if eos_id - 1 not in ids)
    if name == "sft-packed":
        batches = _packed(islice(ends, steps * ROW), steps)
    elif name == "sft":
        batches = _in_batches(((((), ids),) for ids in ends), steps, batch_size)
    elif name == "reward-model":
        batches = _in_batches(((((), first), ((), next(ends))) for first in ends), steps, batch_size)
    else:
        batches = _in_batches((_pair(first, next(ends), draw) for first in ends), steps, batch_size)
    return Task(name, batches, eos_id, eos_id - 1)


def length(text: Text) -> int:
    """Tokens of a text."""
    return sum(map(len, text))


def prompts(work: Workload) -> list[tuple[int, ...]]:
    """The prompts of one update, each GROUP times in a row."""
    return [prompt for prompt in work.prompts[: len(work.prompts) // GROUP] for _ in range(GROUP)]


def distinct_tokens(ids: list[int]) -> float:
    """The reward of the sampled tasks: it costs nothing, and differs between responses."""
    return len(set(ids)) + sum(ids) % 97 / 97


def _pair(first: tuple[int, ...], second: tuple[int, ...], draw: random.Random) -> Record:
    """Two continuations of the beginning of the first text."""
    cut = min(draw.randint(*PROMPT_TOKENS), len(first) - 1)
    prompt = first[:cut]
    return (prompt, first[cut:]), (prompt, (*second[:-1][: LONGEST - cut - 1], second[-1]))


def _in_batches(records: Iterator[Record], steps: int, size: int) -> tuple[tuple[Record, ...], ...]:
    return tuple(tuple(islice(records, size)) for _ in range(steps))


def _packed(ids: Iterator[tuple[int, ...]], steps: int) -> tuple[tuple[Record, ...], ...]:
    """Texts in rows of at most ROW tokens, each in the row that it fills best; as many as there is room for."""
    rows: list[list[tuple[int, ...]]] = [[] for _ in range(steps)]
    room = [ROW] * steps
    for text in ids:
        fitting = [row for row in range(steps) if len(text) <= room[row]]
        if not fitting:
            if max(room) < 2:
                break
            continue
        row = min(fitting, key=lambda r: room[r])
        rows[row].append(text)
        room[row] -= len(text)
    return tuple(tuple((((), text),) for text in row) for row in rows)
