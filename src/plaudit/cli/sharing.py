"""Commands that take models and data from other tools, or pass them on."""

from pathlib import Path
from typing import Any

import click

from plaudit.cli import flags
from plaudit.config import preset, read_toml, resolve


@click.command("merge", cls=flags.Command)
@click.argument("adapter", type=flags.PATH, help="folder of a LoRA adapter that peft saved")
@click.argument("directory", type=flags.PATH, help="new folder for the whole model")
def merge(adapter: Path, directory: Path) -> None:
    """Merge a LoRA adapter into its base model, for --model."""
    from plaudit.models.merging import merge_folder

    print(f"{directory}: {merge_folder(adapter, directory)} with {adapter} merged into it")


@click.command("push", cls=flags.Command)
@click.argument("run", type=flags.PATH, help="run directory")
@click.argument("repo", help="repository on the hub, OWNER/NAME; others get -sft and -reward-model after the name")
@click.option("--private", is_flag=True, help="make private repositories")
@click.option("--token", metavar="TOKEN", envvar="HF_TOKEN", default="", help="token with write access [HF_TOKEN]")
@click.option("--only", metavar="STAGE,STAGE,...", default="", help="stages to upload, such as ppo,reward_model")
@click.option("--dry-run", metavar="DIR", type=flags.PATH, help="write models and cards there; upload nothing")
def push(run: Path, repo: str, private: bool, token: str, only: str, dry_run: Path | None) -> None:
    """Upload a run's models to the Hugging Face hub, with model cards.

    The policy goes to REPO. Texts of the data, rollouts and checkpoints are not uploaded.
    """
    from plaudit.publishing import upload

    stages = [stage for stage in only.split(",") if stage]
    print("\n".join(upload.push(run, repo, private=private, token=token, only=stages, dry_run=dry_run)))


@click.command("export", cls=flags.Command, params=flags.settings("data", bare=False))
@click.argument("file", type=flags.PATH, help="new file, NAME.jsonl")
def export(file: Path, **given: Any) -> None:
    """Write the data as a JSONL file that TRL reads.

    Comparisons have the columns prompt, chosen and rejected; the column split says train, prompts or evaluation.
    """
    base = preset(given["preset"]) if given["preset"] else {}
    settings = resolve(base, read_toml(Path(given["config"])) if given["config"] else {}, flags.by_full_name(given))

    from plaudit.data.corpus import load
    from plaudit.data.export import export as write
    from plaudit.data.options import Config

    own = {name.removeprefix("data."): value for name, value in settings.items() if name.startswith("data.")}
    counts = write(load(Config(**own)), file)
    print(f"{file}: {', '.join(f'{rows:,} {part}' for part, rows in counts.items())}")
