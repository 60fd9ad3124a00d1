"""Commands that train several policies from one run, and compare them."""

from pathlib import Path

import click

from plaudit.cli import failures, flags
from plaudit.config import POLICIES, in_words, resolve


@click.command("frontier")
@flags.run
@click.option(
    "--kl-coefs",
    metavar="X,X,...",
    is_flag=False,
    flag_value="",
    help="values of kl_coef to train PPO with, separated by commas; --kl-coefs alone: no training "
    "[score/nat; at least 0; default: the run's kl_coef, and two and four times that]",
)
@flags.count("--draws", low=16, default=32, help="responses of the SFT model to each prompt")
@flags.overwrite
def frontier(run: Path, kl_coefs: str | None, draws: int, overwrite: bool) -> None:
    """Compare PPO at several kl_coef with best-of-n.

    PPO is trained once for each kl_coef, from the run's SFT and reward model. To continue after a stop, repeat the
    command.
    """
    words = kl_coefs.split(",") if kl_coefs else []
    numbers = [resolve({"ppo.kl_coef": word})["ppo.kl_coef"] for word in words]
    failures.must_exist(run)

    from plaudit.cli import progress, tables

    with progress.waiting("starting"):
        from plaudit.evaluation import frontier as room
        from plaudit.training.run import Run

        reports = room.frontier(Run.existing(run), None if kl_coefs is None else numbers, draws, overwrite=overwrite)
    progress.watch(reports, "frontier")
    tables.frontier(run)


@click.command("methods")
@flags.run
@click.option(
    "--methods",
    "names",
    default=",".join((*map(in_words, POLICIES), "random-of-n")),
    metavar="NAME,NAME,...",
    show_default=True,
    help="methods to compare, the first being the one that the others are compared with",
)
@flags.count("--seeds", low=1, default=3, help="random seeds for each method; more give narrower intervals")
@flags.count("--budget", low=2, default=6000, help="responses that each method samples in training")
@flags.count("--draws", low=16, default=64, help="responses of the SFT model to each held-out prompt, for best-of-n")
@flags.overwrite
def methods(run: Path, names: str, seeds: int, budget: int, draws: int, overwrite: bool) -> None:
    """Train several methods at equal cost, and compare them.

    Each starts from the run's SFT model, has the same reward, and samples the same number of responses. The results are
    in RUN/report.html, RUN/methods.json and two CSV files beside it. To continue after a stop, repeat the command.
    """
    failures.must_exist(run)

    from plaudit.cli import progress, tables

    with progress.waiting("starting"):
        from plaudit.evaluation import methods as room
        from plaudit.training.run import Run

        reports = room.methods(Run.existing(run), names.split(","), seeds, budget, draws, overwrite=overwrite)
    progress.watch(reports, "methods")
    tables.methods(run)
