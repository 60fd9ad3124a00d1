"""What `plaudit data` prints: how a data set was read, its splits, lengths in tokens, and what is learned."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plaudit.cli.layers import fit
from plaudit.cli.progress import new_console, one_line, waiting
from plaudit.data.splits import Part, Splits
from plaudit.data.tables import Reading
from plaudit.data.text import words
from plaudit.errors import ModelError

_EXAMPLES, _LONGEST, _LONGEST_PART = 3, 160, 100  # records, characters
_HEADS = ("records", "median", "95%", "longest", "limit", "over")


def show(name: str, splits: Splits, chosen: dict[str, Any], known: dict[str, Any] | None, *, export: bool) -> None:
    """Print what is known about a data set, and the command that trains on it, unless it is an `export`.

    Args:
        name: of the data set.
        chosen: the settings that the user gave, by full name.
        known: those and the data's name, to choose a model for the tokens; None to leave out the tokens.
    """
    console = new_console()
    for reading in splits.readings:
        _show_reading(console, reading)
    _show_splits(console, splits)
    warnings = [splits.warning]
    if known is None:
        _show_records(console, splits.train)
    else:
        warnings += _show_tokens(console, known)
    for warning in filter(None, warnings):
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if export:
        return
    given = [f"--{key.replace('_', '-')} {shlex.quote(value)}" for key, value in chosen.items()]
    if not splits.train.judged:
        given += ["--reward", "FILE.py:NAME"]  # nothing to train a reward model on
    console.print(f"Next: {' '.join(['plaudit run --data', shlex.quote(name), *given])}", soft_wrap=True)


def _show_tokens(console: Console, known: dict[str, Any]) -> list[str]:
    """Lengths in tokens, tokens per word, and examples with the tokens that are learned; returns warnings."""
    try:
        fitted = fit(known)
        with waiting("tokenising"):
            from plaudit.cli import tokens

            found = tokens.measure(fitted)
    except ModelError as error:
        raise ModelError(f"{error}; --no-tokens shows the rest without the model") from None
    console.print(f"tokens of {fitted.model}: {found.per_word:.2f} per word", soft_wrap=True)
    console.print(f"  {'':<25}" + "".join(f"{head:>8}" for head in _HEADS), style="dim", soft_wrap=True)
    for lengths in found.lengths:
        cells = "".join(f"{cell:>8}" for cell in lengths.cells())
        console.print(f"  {lengths.name:<25}{cells}".rstrip(), soft_wrap=True)
    sampled = f", measured on the first {tokens.MOST:,} records" if _more(found.lengths, tokens.MOST) else ""
    console.print(f"  records over their limit are left out; nothing is cut{sampled}\n", soft_wrap=True)
    mark = "in green" if console.color_system else "in [[ ]]"
    if found.demonstrations:
        console.print(f"sft learns the tokens {mark}", soft_wrap=True)
        for runs in found.demonstrations[:2]:
            _example(console, "", tokens.spans(runs, found.tokenizer))
        console.print()
    if found.judged:
        console.print(f"the reward model scores each text at its last token; responses {mark}", soft_wrap=True)
        for example in tokens.some_judged(found.judged):
            for title, parts in tokens.responses_of(example, found.tokenizer):
                _example(console, title, parts)
        console.print()
    return found.warnings


def _more(lengths: list[Any], most: int) -> bool:
    return any(len(each.tokens) >= most for each in lengths)


def _example(console: Console, title: str, parts: list[tuple[str, bool]]) -> None:
    """A text in one paragraph: what is learned in green, or in [[ ]] where there is no colour."""
    shown = Text()
    for text, learned in parts:
        short = _shortened(text, from_end=not learned)
        if not learned:
            shown.append(short, "dim")
        elif console.color_system:
            shown.append(short, "green")
        else:
            shown.append(f"[[{short}]]")
    _row(console, title, shown)


def _row(console: Console, name: str, content: Text) -> None:
    """A name and what it stands for: beside each other on a terminal, on one line elsewhere."""
    margin = 14 if name else 2
    if not console.is_terminal:
        console.print(Text(f"  {name}".ljust(margin)) + content, soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(width=margin, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(f"  {name}", content)
    console.print(grid)


def _shortened(text: str, *, from_end: bool) -> str:
    """A part of a text on one line; a long one keeps its end, which is nearest to the response, or both ends."""
    lines = text.replace("\r\n", "\n").split("\n")
    line = "\\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in each) for each in lines)
    if len(line) <= _LONGEST_PART:
        return line
    return f"...{line[3 - _LONGEST_PART :]}" if from_end else f"{line[: _LONGEST_PART - 33]}...{line[-30:]}"


def _show_reading(console: Console, reading: Reading) -> None:
    facts = {
        "role": reading.role + (f", {reading.why}" if reading.role == "left out" else ""),
        "format": ", ".join(filter(None, (reading.container, reading.encoding))),
        "layout": f"{reading.layout} ({reading.why})" if reading.layout else "",
        "labels": reading.labels,
        "used": ", ".join(reading.used),
        "ignored": ", ".join(reading.ignored),
        "rows": f"{reading.rows:,}, of which {reading.records:,} are read"
        + "".join(f"; {count:,} {reason}" for reason, count in reading.dropped.items()),
    }
    _show(console, reading.name, facts)


def _show_splits(console: Console, splits: Splits) -> None:
    facts = {name: _counts(part) for name, part in splits.parts.items()}
    facts["left out"] = ", ".join(f"{count:,} {reason}" for reason, count in splits.dropped.items()) or "none"
    _show(console, splits.name, facts)


def _show_records(console: Console, part: Part) -> None:
    for record in (part.labelled or part.comparisons or part.rankings or part.demonstrations or part.to_answer)[
        :_EXAMPLES
    ]:
        shown = {
            key: words(value) if isinstance(value, (str, tuple)) else value for key, value in _plain(record).items()
        }
        _show(console, type(record).__name__, {key: _short(value) for key, value in shown.items()})


def _plain(record: Any) -> dict[str, Any]:
    """The fields of a record that say something; the responses of a ranking one by one."""
    found = {key: value for key, value in vars(record).items() if value not in ("", 0.0) or key == "label"}
    ranked = found.pop("responses", ())
    return found | {f"response {i}": response for i, response in enumerate(ranked, start=1)}


def _counts(part: Part) -> str:
    counts = {"labelled": part.labelled, "comparisons": part.comparisons, "rankings": part.rankings}
    shown = [f"{len(records):,} {kind}" for kind, records in counts.items() if records]
    if part.labelled:
        shown[0] += f" ({sum(text.label >= 0.5 for text in part.labelled) / len(part.labelled):.0%} good)"
    if part.demonstrations or not part.to_answer:
        shown.append(f"{len(part.demonstrations):,} to imitate")
    if part.to_answer:
        shown.append(f"{len(part.to_answer):,} prompts without a response")
    return ", ".join(shown)


def _short(value: Any) -> str:
    text = one_line(value) if isinstance(value, str) else f"{value:g}"
    return f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text


def _show(console: Console, title: str, facts: dict[str, str]) -> None:
    console.print(title, soft_wrap=True)
    for name, fact in facts.items():
        if fact:
            _row(console, name, Text(fact))
    console.print()
