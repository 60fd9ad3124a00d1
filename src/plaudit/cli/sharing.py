"""Commands that pass models on to others."""

from pathlib import Path

import click

from plaudit.cli import flags


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
    from plaudit.cli import progress

    with progress.waiting("uploading"):
        from plaudit.publishing import upload

        stages = [stage for stage in only.split(",") if stage]
        links = upload.push(run, repo, private=private, token=token, only=stages, dry_run=dry_run)
    print("\n".join(links))
