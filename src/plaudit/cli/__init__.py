"""The command line: thin commands over the pipeline.

torch and transformers take seconds to import, so the modules that need them are imported inside the commands:
`plaudit --help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from plaudit import config as settings
from plaudit.cli.flags import STAGE_OF, parse, settings_of
from plaudit.config import Config
from plaudit.errors import ConfigError, PlauditError, RunError, TrainingError

ALL_STAGES = ("sft", "reward_model", "ppo", "evaluation")


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `plaudit`; those of this process if None.

    Returns:
        the exit code: 0 done, 1 it could not be done, 2 a wrong flag or setting, 130 stopped by Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character gets '?', not a traceback
        sys.stdout.reconfigure(errors="replace")
    try:
        code = _guarded(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has gone; without this Python would complain once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code


def _guarded(argv: list[str]) -> int:
    args = None
    try:
        args = parse(argv)
        commands = {
            "run": _run,
            "sample": _sample,
            "doctor": _doctor,
            "frontier": _frontier,
            "seeds": _seeds,
            "notebooks": _notebooks,
        }
        code = commands.get(args.command, _stage)(args)
    except SystemExit as stop:  # argparse, after --help or --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print(f"plaudit: stopped{_how_to_go_on(args)}", file=sys.stderr)
        return 130
    except PlauditError as error:
        print("plaudit: error:", " ".join(str(error).split("\n")), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return code or 0


def _run(args: Namespace) -> None:
    config = _config(args, args.out if args.resume else None)
    seconds = _drive(args, config, ALL_STAGES, resume=args.resume, overwrite=args.overwrite)

    from plaudit.cli import console

    console.summary(args.out, config, seconds)


def _stage(args: Namespace) -> None:
    stage = STAGE_OF[args.command]
    if stage != "evaluation":
        config = _config(args, args.out)
        _drive(args, config, (stage,), resume=args.resume, overwrite=args.overwrite)

        from plaudit.cli import console

        console.next_command(args.out, stage)
        return

    _must_exist(args.out)
    config, before = _config(args, args.out), settings.build(_saved(args.out))
    # Asking for the figures again shows them; asking for others makes them anew.
    anew = args.overwrite or config.evaluation != before.evaluation
    if anew or config != before or not _evaluated(args.out):
        _drive(args, config, (stage,), resume=not anew, overwrite=anew)

    from plaudit.cli import console

    if args.json:
        print(console.evaluation_text(args.out), end="")
    else:
        console.headline(args.out)


def _sample(args: Namespace) -> None:
    _must_exist(args.out)

    from plaudit.cli import console, progress
    from plaudit.evaluation.sample import sample

    with progress.waiting("opening the models"):
        answers = sample(args.out, args.prompt, args.samples, args.seed, args.max_new_tokens)
    console.samples(args.prompt, [dataclasses.asdict(answer) for answer in answers])


def _doctor(args: Namespace) -> int:
    if args.out:
        _must_exist(args.out)
    config = _config(args, args.out)

    from plaudit.cli import console, progress

    with progress.waiting("looking"):
        from plaudit.evaluation.doctor import doctor
        from plaudit.training.run import Run

        run = Run(args.out or Path(os.devnull), config)
        checks = doctor(run, "ppo" if run.complete("reward_model") else "sft")
    console.checks([(check.mark, check.line) for check in checks])
    return 0 if all(check.ok for check in checks) else 1


def _frontier(args: Namespace) -> None:
    _must_exist(args.out)

    from plaudit.cli import console, progress

    with progress.waiting("starting"):
        from plaudit.evaluation.frontier import frontier
        from plaudit.training.run import Run

        reports = frontier(Run.existing(args.out), args.kl_coefs, args.draws, overwrite=args.overwrite)
    progress.follow(reports, args.out, ())
    console.frontier(args.out)


def _seeds(args: Namespace) -> None:
    first = min(args.out.glob("seed-*"), key=lambda p: (len(p.name), p.name), default=args.out)
    config = _config(args, first if args.resume else None)

    from plaudit.cli import console, progress

    with progress.waiting("starting"):
        from plaudit.evaluation.seeds import summarise
        from plaudit.pipeline import check, steps
        from plaudit.training.run import Run

        check(config, args.out, ALL_STAGES)
        runs = [
            Run.open(
                args.out / f"seed-{seed}",
                dataclasses.replace(config, seed=seed),
                resume=args.resume,
                overwrite=args.overwrite,
                stages=ALL_STAGES,
            )
            for seed in range(config.seed, config.seed + args.n)
        ]
    stopped = {}
    for run in runs:
        print(f"seed {run.config.seed}", file=sys.stderr)
        try:
            progress.follow(steps(run, ALL_STAGES), run.path, ALL_STAGES)
        except TrainingError as error:
            stopped[run.config.seed] = str(error)
    console.seeds(args.out, summarise(args.out, runs, stopped))


def _notebooks(args: Namespace) -> None:
    from plaudit.lesson.shipped import copy_to

    notebooks = copy_to(args.out, overwrite=args.overwrite)
    print(f"{args.out}: {', '.join(n.name for n in notebooks)}")
    if importlib.util.find_spec("jupyterlab") is None:
        print("first: pip install 'plaudit[notebooks]'")
    print(f"next: jupyter lab {shlex.quote(str(notebooks[0]))}")


def _config(args: Namespace, known: Path | None) -> Config:
    """The settings of default < preset < the run directory (if `known`) < --config < flags, checked."""
    layers = [settings.preset(args.preset)] if getattr(args, "preset", None) else []
    if known:
        layers.append(_saved(known))
    if args.config:
        layers.append(settings.read_toml(args.config))
    return settings.build(*layers, settings_of(args))


def _saved(directory: Path) -> dict[str, object]:
    path = directory / "config.toml"
    return settings.read_toml(path) if path.exists() else {}


def _must_exist(directory: Path) -> None:
    if not (directory / "config.toml").exists():
        make = f"plaudit run --out {shlex.quote(str(directory))}"
        raise RunError(f"{directory}: no run here (config.toml is missing); make one with {make}")


def _evaluated(directory: Path) -> bool:
    return all((directory / name).exists() for name in ("evaluation.json", "report.html"))


def _drive(
    args: Namespace, config: Config, stages: tuple[str, ...], *, resume: bool, overwrite: bool
) -> dict[str, float]:
    """Run the stages with their progress on stderr; seconds by stage of those that had something to do."""
    from plaudit.cli import progress

    with progress.waiting("starting"):
        from plaudit.pipeline import check, steps
        from plaudit.training.run import Run

        check(config, args.out, stages)
        run = Run.open(args.out, config, resume=resume, overwrite=overwrite, stages=stages)
    return progress.follow(steps(run, stages), args.out, stages)


def _how_to_go_on(args: Namespace | None) -> str:
    if args is None or args.command in ("sample", "doctor", "notebooks"):
        return ""
    out = shlex.quote(str(args.out))
    go_on = f"plaudit {args.command} --resume --out {out}"
    if args.command in ("eval", "frontier"):
        go_on = f"plaudit {args.command} {out}"
    if args.command == "frontier" and args.kl_coefs is not None:
        go_on += " ".join([" --kl-coefs", *(f"{k:g}" for k in args.kl_coefs)])
    if args.command == "frontier" and args.draws != 32:
        go_on += f" --draws {args.draws}"
    if args.command == "seeds":
        go_on += f" --n {args.n}"
    return f"; go on with: {go_on}"
