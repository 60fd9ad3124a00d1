"""The command line: thin commands over the pipeline.

torch and transformers take seconds to import, so the modules that need them are imported inside the commands:
help texts, wrong flags and wrong settings are answered at once.
"""

import dataclasses
import os
import shlex
import signal
import sys
from json import dumps
from pathlib import Path
from typing import Any

import click

from plaudit import __version__
from plaudit.cli import data, experiments, failures, flags, people, process, rewards, sharing, sweep
from plaudit.cli.layers import fit, layered, saved
from plaudit.config import ALGORITHMS, SECTIONS, resolve
from plaudit.errors import ConfigError, PlauditError, RankError, RewardError, RunError, TrainingError
from plaudit.training import heartbeat, stopping

RUN_STAGES = ("sft", "reward_model", "ppo", "evaluation")

_EPILOG = """\b
First steps:
  plaudit run                                      train, into runs/default
  plaudit doctor                                   check that it can be done
  plaudit run --resume                             continue after a stop
  plaudit sample runs/default "the film is"        responses, side by side
  plaudit run --ppo.kl-coef 0.1 --out runs/kl-0.1  one setting changed
  plaudit notebooks lessons                        copy the five notebooks
  plaudit COMMAND --help                           every flag and setting

Ctrl-C or SIGTERM lets the running step finish and saves a checkpoint; a second one stops at once.
Exit codes: 0 done; 1 failed (data, model, run directory, training); 2 a wrong flag or setting; 130 stopped by Ctrl-C,
143 by SIGTERM.
"""


class _Commands(click.Group):
    command_class = flags.Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a user meets them."""
        return list(self.commands)


commands = _Commands(
    help="RLHF that people can read, run on a laptop, and trust: SFT, reward model, PPO.",
    epilog=_EPILOG,
    context_settings=flags.CONTEXT,
)
click.version_option(__version__, message=f"plaudit {__version__}")(commands)
_opened: list[Path] = []  # run directories of this command, once they are open


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv`, by default in sys.argv, and return its exit code (see `plaudit --help`)."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:
        process.keep_freed_memory()
    _opened.clear()
    heartbeat.say[:] = [lambda line: failures.tell(f"error: {line}{_way_on(words)}", speaks=True)]
    try:
        with stopping.signals("stopping after this step and a checkpoint; Ctrl-C or SIGTERM again stops at once"):
            return _answer(words)
    except KeyboardInterrupt as stop:
        failures.tell(f"stopped{_way_on(words)}")
        return 128 + getattr(stop, "number", signal.SIGINT)
    finally:
        if argv is None:  # the process is ending: one more Ctrl-C would print a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer(words: list[str]) -> int:
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character gets '?', not a traceback
        sys.stdout.reconfigure(errors="replace")
    try:
        with commands.make_context("plaudit", words or ["--help"]) as context:
            code = commands.invoke(context) or 0
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as done:  # after --help or --version
        return done.exit_code
    except BrokenPipeError:
        # The reader, such as `head`, has gone; without this Python would print another error when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.ClickException as error:
        failures.tell(f"error: {flags.message(error, commands, words)}")
        return 2
    except Exception as raised:
        found = heartbeat.explained(raised)
        final = isinstance(found, PlauditError) and not (_opened and isinstance(found, RewardError | RankError))
        way_on = "" if final else _way_on(words)
        failures.tell(f"error: {failures.describe(found)}{way_on}", found)
        return 2 if isinstance(found, ConfigError) else 1


def _way_on(words: list[str]) -> str:
    """The command to continue with: --resume if a run directory has been opened, otherwise the same command."""
    if not words or words[0] in ("data", "sample", "doctor", "notebooks", "push", "chat"):
        return ""
    resumes = any(param.name == "resume" for param in commands.commands[words[0].replace("_", "-")].params)
    if _opened or not resumes:
        words = [word for word in words if word not in ("--overwrite", "--resume")]
        words += ["--resume"] if resumes else []
    return failures.way_on(shlex.join(words))


def _open(
    known: dict[str, Any], out: Path, stages: tuple[str, ...], seeds: dict[Path, int], **how: bool
) -> tuple[list[Any], tuple[str, ...]]:
    """Open the run directory of each seed and print what is planned; returns the runs, and the stages they need."""
    from plaudit.cli import progress

    progress.header(resolve(known), out)
    config = fit(known)
    with progress.waiting("starting"):
        from plaudit.cli.plan import plan
        from plaudit.pipeline import check, stages_for
        from plaudit.rewards import sources_of
        from plaudit.training import dist
        from plaudit.training.run import Run

        dist.start()  # one process of a job tries the reward
        stages = stages_for(stages, sources_of(None, config.reward))
        left_out = check(config, out, stages)
        planned = plan(config, out, stages)
    for line in left_out:
        progress.warn(line)
    each = ((path, dataclasses.replace(config, seed=seed)) for path, seed in seeds.items())
    runs = []
    for path, own in each:
        begun = path == out or (path / "config.toml").exists()  # after a stop, later seeds have no directory yet
        runs.append(Run.open(path, own, stages=stages, **how | {"resume": how["resume"] and begun}))
    _opened.extend(seeds)
    for run in runs:
        progress.note(run.differences(stages))
    progress.outlook(planned, runs, stages)
    return runs, stages


def _drive(known: dict[str, Any], out: Path, stages: tuple[str, ...], **how: bool) -> dict[str, float]:
    """Run the stages and show their progress on stderr; returns wall-clock seconds by stage, of those that ran."""
    (run,), stages = _open(known, out, stages, {out: resolve(known)["seed"]}, **how)

    from plaudit.cli import progress

    return progress.follow(run, stages)


def _add_training(name: str, about: str, stages: tuple[str, ...]) -> None:
    """Add a command that trains: the whole run, or one algorithm."""
    whole = len(stages) > 1
    settings = flags.settings(*(SECTIONS if whole else stages), bare=not whole)

    own: list[click.Parameter] = [] if whole else [click.Argument(["run"], type=flags.PATH, required=False)]
    own += [people.comparisons] if name == "reward-model" else []

    @commands.command(name, help=about, params=[*own, *flags.directory("runs/default"), *settings])
    def train(
        out: Path, resume: bool, overwrite: bool, run: Path | None = None, comparisons: bool = False, **given: Any
    ) -> None:
        out = run or out
        if comparisons:
            from plaudit.labelling.comparisons import write_comparisons

            given["reward_model__judgements"] = str(write_comparisons(out / people.FOLDER))
        if resume and not (out / "config.toml").exists():
            raise RunError(f"{out}: nothing to resume here (config.toml is missing); start without --resume")
        known = layered(given, out if resume or not whole else None)
        seconds = _drive(known, out, stages, resume=resume, overwrite=overwrite)

        from plaudit.cli import console

        if whole:
            console.summary(out, resolve(known), seconds)
        else:
            console.next_command(out)


_add_training("run", "SFT, reward model, PPO and evaluation, one after the other.", RUN_STAGES)
for _stage, _about in ALGORITHMS.items():
    _add_training(_stage.replace("_", "-"), _about, (_stage,))
commands.add_command(data.command)


@commands.command("eval", params=flags.settings("evaluation", bare=True))
@flags.run
@click.option("--json", is_flag=True, help="print evaluation.json, and nothing else, on stdout")
@flags.overwrite
def _evaluate(run: Path, json: bool, overwrite: bool, **given: Any) -> None:
    """Compare SFT model and policy on held-out prompts.

    A finished evaluation is only shown. Another setting of it measures again; another --reward is shown beside it.
    """
    failures.must_exist(run)
    before = resolve(saved(run))
    settings, other = rewards.without_other(run, resolve(layered(given, run)), before)
    changed = [name for name in settings if settings[name] != before[name]]
    again = overwrite or any(name.startswith("evaluation.") for name in changed)
    made = all((run / name).exists() for name in ("evaluation.json", "report.html"))
    if again or changed or not made:
        _drive(settings, run, ("evaluation",), resume=not again, overwrite=again)

    from plaudit.cli import console

    beside = rewards.score_by(run, other)
    if json:
        print(dumps(console.evaluation(run) | beside, indent=2))
    else:
        console.headline(run)
        console.other_reward(beside)


@commands.command("sample")
@flags.run
@click.argument("prompt", help='beginning of the text, such as "the film is"')
@flags.count("-n", "--samples", low=1, default=4, help="responses of each model")
@flags.count("--seed", low=0, default=1, help="random seed; another one gives other responses")
@flags.count(
    "--max-new-tokens",
    low=1,
    help="longest response, in tokens; default: max_new_tokens of training, also where that drew shorter limits",
)
def _sample(run: Path, prompt: str, samples: int, seed: int, max_new_tokens: int | None) -> None:
    """Answer a prompt with SFT model and policy, side by side."""
    failures.must_exist(run)

    from plaudit.cli import console, progress

    with progress.waiting("opening the models"):
        from plaudit.evaluation.evaluate import sample

        found = sample(run, prompt, samples, seed, max_new_tokens)
    console.samples(prompt, found)


@commands.command("doctor", params=flags.settings(*SECTIONS, bare=False))
@click.argument("run", type=flags.PATH, required=False, help="run directory; without it, the base model is checked")
def _doctor(run: Path | None, **given: Any) -> int:
    """Run the preflight checks on a run's models."""
    if run:
        failures.must_exist(run)
    config = fit(layered(given, run))

    from plaudit.cli import console, progress

    with progress.waiting("preflight checks"):
        from plaudit.evaluation.doctor import preflight
        from plaudit.training.run import Run

        checks = preflight(Run(run or Path(os.devnull), config))
    console.checks([(check.mark, check.line) for check in checks])
    return 0 if all(check.ok for check in checks) else 1


@commands.command("seeds", params=[*flags.directory("runs/seeds"), *flags.settings(*SECTIONS, bare=False)])
@flags.count(
    "--n", low=1, default=10, help="number of seeds, --seed being the first; each has its directory DIR/seed-N"
)
def _seeds(n: int, out: Path, resume: bool, overwrite: bool, **given: Any) -> None:
    """Run the whole experiment with several seeds."""
    first = min(out.glob("seed-*"), key=lambda path: (len(path.name), path.name), default=out)
    known = layered(given, first if resume else None)
    begin = resolve(known)["seed"]
    seeds = {out / f"seed-{seed}": seed for seed in range(begin, begin + n)}
    if resume and not first.joinpath("config.toml").exists():
        raise RunError(f"{out}: nothing to resume here; start without --resume")
    runs, stages = _open(known, out, RUN_STAGES, seeds, resume=resume, overwrite=overwrite)

    from plaudit.cli import progress, tables
    from plaudit.evaluation.seeds import summarise

    stopped = {}
    for run in runs:
        print(f"seed {run.config.seed}", file=sys.stderr)
        try:
            progress.follow(run, stages)
        except TrainingError as error:
            stopped[run.config.seed] = str(error)
    tables.seeds(out, summarise(out, runs, stopped))


commands.add_command(experiments.frontier)
commands.add_command(experiments.methods)
commands.add_command(sweep.sweep)
commands.add_command(people.label)
commands.add_command(people.compare)
commands.add_command(people.loop)
commands.add_command(people.watch)
commands.add_command(people.chat)
commands.add_command(sharing.merge)
commands.add_command(sharing.push)
commands.add_command(sharing.receipt)
commands.add_command(sharing.notebooks)
