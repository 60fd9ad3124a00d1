"""Commands that take models from other tools, or pass on what there is here."""

import importlib.util
import shlex
from pathlib import Path

import click

from plaudit.cli import failures, flags


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
    """Upload a run's models to the hub, with model cards.

    The policy goes to REPO. Texts of the data, rollouts and checkpoints are not uploaded.
    """
    from plaudit.publishing import upload

    stages = [stage for stage in only.split(",") if stage]
    print("\n".join(upload.push(run, repo, private=private, token=token, only=stages, dry_run=dry_run)))


@click.command("receipt", cls=flags.Command)
@click.argument("run", type=flags.PATH, required=False, help="run directory")
@click.option("--check", metavar="FILE", type=flags.PATH, help="receipt to check: train again with its settings")
@click.option("--out", metavar="DIR", type=flags.PATH, default="runs/receipt", help="run directory of --check")
@click.option("--data", metavar="NAME", default="", help="the data here, if not where the receipt says")
@click.option("--judgements", metavar="NAME", default="", help="the same for judgements of the reward model")
def receipt(run: Path | None, check: Path | None, out: Path, data: str, judgements: str) -> int:
    """Write one page that documents a run, or check such a page.

    It is RUN/receipt.md: versions, hashes, settings, figures, and the statement that a paper needs. --check
    trains again and says which figures agree; it continues after a stop.
    """
    if (run is None) == (check is None):
        raise click.UsageError("name a run directory, or a receipt with --check")
    from plaudit.publishing import receipt as room

    if run is not None:
        failures.must_exist(run)
        print(room.write_receipt(run))
        return 0
    assert check is not None
    content = room.read_receipt(check)
    known = room.settings_of(content, data, judgements)

    from plaudit.cli import progress, tables
    from plaudit.config import build
    from plaudit.training.run import Run

    config = build(known)
    stages = (*content["stages"], "evaluation")
    room.check_inputs(content, Run(out, config))
    progress.header(known, out)
    here = Run.open(out, config, resume=(out / "config.toml").exists(), overwrite=False, stages=stages)
    progress.follow(here, stages)
    figures, weights = room.compared(content, here)
    return tables.receipt(figures, weights, room.other_versions(content, here))


@click.command("notebooks", cls=flags.Command)
@click.argument("directory", type=flags.PATH, help="folder; made if it does not exist")
@click.option("--overwrite", is_flag=True, help="replace existing files and start again")
def notebooks(directory: Path, overwrite: bool) -> None:
    """Copy the five notebooks that teach RLHF into a folder."""
    from plaudit.lesson.shipped import copy_to

    copied = copy_to(directory, overwrite=overwrite)
    print(f"{directory}: {', '.join(notebook.name for notebook in copied)}")
    if importlib.util.find_spec("jupyterlab") is None:
        print("first: pip install 'plaudit[notebooks]'")
    print(f"next: jupyter lab {shlex.quote(str(copied[0]))}")
