"""The command line's flags, made from the settings' dataclasses: no setting is described twice.

Values stay text here; `config.build` checks them as it checks those of a file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from plaudit import __version__
from plaudit.config import PRESETS, SECTIONS, default_settings, nearest, section_class
from plaudit.errors import ConfigError

STAGE_OF = {"sft": "sft", "reward-model": "reward_model", "ppo": "ppo", "eval": "evaluation"}
COMMANDS = ("run", *STAGE_OF, "sample", "doctor", "frontier", "seeds", "notebooks")

_EPILOG = """\
first steps:
  plaudit run                                     the whole experiment, into runs/default
  plaudit doctor                                  seconds: can this model, data and machine do it?
  plaudit run --resume                            go on with it after a stop
  plaudit sample runs/default "the film is"       SFT and policy side by side
  plaudit run --ppo.kl-coef 0.1 --out runs/kl-0.1 the same, with one setting changed
  plaudit notebooks lessons                       three notebooks that teach all this, into lessons/
  plaudit COMMAND --help                          a command's settings: meaning, unit, range, default

exit codes:
  0    done
  1    it could not be done: data, model, run directory, training
  2    a flag or a setting is wrong
  130  stopped by Ctrl-C
"""
_PRECEDENCE = """
A flag beats --config, which beats {base}
which beats the default. Dashes and underscores are the same in a flag."""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ours: one line, without the usage of sixty flags."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command and its flags; settings are attributes by full name, such as `ppo.kl_coef`, only where given.

    Raises:
        ConfigError: an unknown command or flag, or a flag without its value.
        SystemExit: after --help or --version, which argparse prints.
    """
    parser, commands = _build()
    first = argv[0] if argv else ""
    if first in commands:
        args, unknown = parser.parse_known_args(_tidy(argv))
        if unknown:
            _refuse(unknown[0], first, commands[first])
        return args
    if first and not first.startswith("-"):
        raise ConfigError(f"unknown command '{first}'{nearest(first, list(commands))}: {', '.join(commands)}")
    if first not in ("", "-h", "--help", "--version"):
        raise ConfigError(f"'{first}' stands before the command: write plaudit COMMAND {first} ...; see plaudit --help")
    parser.parse_args(argv[:1] or ["--help"])
    raise AssertionError("--help and --version leave by SystemExit")


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """The settings among the flags, by full name."""
    names = default_settings()
    return {name: value for name, value in vars(args).items() if name in names}


def _build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    top: dict[str, Any] = {"formatter_class": _formatter, "allow_abbrev": False}
    parser = _Parser(
        prog="plaudit",
        usage="plaudit COMMAND [flags]",
        description="RLHF that people can read, run on a laptop, and trust: SFT, reward model, PPO.",
        epilog=_EPILOG,
        **top,
    )
    parser.add_argument("--version", action="version", version=f"plaudit {__version__}")
    sub = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name: str, about: str, usage: str, more: str = "") -> argparse.ArgumentParser:
        usage = f"plaudit {name} {usage}"
        description = f"{about[0].upper()}{about[1:]}." + (f"\n{more}" if more else "")
        return sub.add_parser(name, prog=f"plaudit {name}", help=about, description=description, usage=usage, **top)

    run = command(
        "run",
        "SFT, reward model, PPO and evaluation, one after the other",
        "[--SETTING VALUE ...] [--preset NAME] [--config FILE] [--out DIR] [--resume | --overwrite]",
        _PRECEDENCE.format(base="the run directory's (on --resume), which beat --preset,"),
    )
    _directory_flags(run, resumable=True)
    run.add_argument("--preset", metavar="NAME", help=f"built-in settings: {', '.join(_presets())}")
    for section in ("", *SECTIONS):
        _setting_flags(run, section, bare=False)

    abouts = {
        "sft": "supervised fine-tuning: imitate the texts",
        "reward-model": "train the reward model; needs plaudit sft",
        "ppo": "optimise the policy against the reward model; needs plaudit reward-model",
        "eval": "compare SFT and policy on held-out prompts, and show the figures",
    }
    for name, stage in STAGE_OF.items():
        positional = "RUN " if name == "eval" else ""
        usage = f"{positional}[--SETTING VALUE ...] [--config FILE] "
        usage += "[--json] [--overwrite]" if name == "eval" else "[--out DIR] [--resume | --overwrite]"
        one = command(name, abouts[name], usage, _PRECEDENCE.format(base="the run directory's config.toml,"))
        if name == "eval":
            one.add_argument("out", metavar="RUN", type=Path, help="run directory")
            one.add_argument("--json", action="store_true", help="print evaluation.json, and nothing else, on stdout")
        _directory_flags(one, resumable=name != "eval")
        _setting_flags(one, "", bare=True)
        _setting_flags(one, stage, bare=True)

    sample = command("sample", "answer a prompt with SFT and policy, side by side, with scores", 'RUN "PROMPT" [flags]')
    sample.add_argument("out", metavar="RUN", type=Path, help="run directory")
    sample.add_argument("prompt", metavar="PROMPT", help='how the text begins, such as "the film is"')
    sample.add_argument("-n", "--samples", metavar="N", type=_whole(1), default=4, help="answers of each [default 4]")
    sample.add_argument("--seed", metavar="N", type=_whole(0), default=1, help="other seed, other answers [default 1]")
    sample.add_argument(
        "--max-new-tokens", metavar="N", type=_whole(1), help="cap on an answer [tokens; default: as in training]"
    )

    about = "check what must hold before training: a run's models, or without RUN the base model"
    look = command("doctor", about, "[RUN] [--SETTING VALUE ...] [--config FILE]")
    look.add_argument("out", metavar="RUN", type=Path, nargs="?", help="run directory")
    look.add_argument("--config", metavar="FILE", type=Path, help="settings from a TOML file")
    for section in ("", *SECTIONS):
        _setting_flags(look, section, bare=False)

    frontier = command(
        "frontier",
        "measure best-of-n and PPO at several strengths of the KL penalty, score and judge against KL",
        "RUN [--kl-coefs [X ...]] [--draws N] [--overwrite]",
        "\nFurther coefficients train PPO again, from the run's SFT and reward model. Stopped, it goes on.",
    )
    frontier.add_argument("out", metavar="RUN", type=Path, help="run directory")
    frontier.add_argument(
        "--kl-coefs",
        metavar="X",
        nargs="*",
        type=_price,
        help="kl_coefs to train at, or none [score/nat; at least 0; default the run's own, twice and four times it]",
    )
    frontier.add_argument(
        "--draws", metavar="N", type=_whole(16), default=32, help="responses of SFT to each prompt [default 32]"
    )
    frontier.add_argument("--overwrite", action="store_true", help="begin anew, trainings included")

    seeds = command(
        "seeds",
        "the whole experiment over several seeds, and what it comes to with intervals",
        "[--n N] [--SETTING VALUE ...] [--preset NAME] [--config FILE] [--out DIR] [--resume | --overwrite]",
        "\nSeeds count up from --seed; each is a run directory, DIR/seed-1 and so on."
        + _PRECEDENCE.format(base="the first run directory's (on --resume), which beat --preset,"),
    )
    seeds.add_argument("--n", metavar="N", type=_whole(1), default=10, help="how many seeds [default 10]")
    _directory_flags(seeds, resumable=True, out="runs/seeds")
    seeds.add_argument("--preset", metavar="NAME", help=f"built-in settings: {', '.join(_presets())}")
    for section in ("", *SECTIONS):
        _setting_flags(seeds, section, bare=False)

    notebooks = command("notebooks", "copy the three notebooks that teach RLHF into a folder", "DIR [--overwrite]")
    notebooks.add_argument("out", metavar="DIR", type=Path, help="folder; made if it is not there")
    notebooks.add_argument("--overwrite", action="store_true", help="replace notebooks that are there")
    return parser, dict(sub.choices)


def _directory_flags(parser: argparse.ArgumentParser, *, resumable: bool, out: str = "runs/default") -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings from a TOML file")
    if not resumable:
        parser.add_argument("--overwrite", action="store_true", help="evaluate again")
        return
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(out), help=f"run directory [default {out}]")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on where the run directory stopped")
    either.add_argument("--overwrite", action="store_true", help="remove what is in the way, and begin anew")


def _setting_flags(parser: argparse.ArgumentParser, section: str, *, bare: bool) -> None:
    """A flag for every setting of `section` ("" for the general ones), by full name and, if `bare`, by its own."""
    cls = section_class(section)
    group = parser.add_argument_group(section or "general", (cls.__doc__ or "").splitlines()[0])
    for field in fields(cls):
        full = f"{section}.{field.name}" if section else field.name
        shown = field.name if bare else full
        metavar = {int: "N", float: "X", str: "NAME"}[type(field.default)]
        about: dict[str, Any] = {"dest": full, "default": argparse.SUPPRESS, "metavar": metavar}
        group.add_argument(f"--{shown.replace('_', '-')}", help=_help(field.metadata, field.default), **about)
        if shown != full:
            group.add_argument(f"--{full.replace('_', '-')}", help=argparse.SUPPRESS, **about)


def _help(about: Any, default: Any) -> str:
    low, high, choices = about["low"], about["high"], about["choices"]
    span = f"{low:g} to {high:g}" if high is not None else f"at least {low:g}" if low is not None else ""
    default = f"{default:g}" if isinstance(default, float) else default
    options = " or ".join([", ".join(choices[:-1]), choices[-1]]) if choices else ""
    notes = [about["unit"], options, span, f"default {default}"]
    return f"{about['help']} [{'; '.join(n for n in notes if n)}]".replace("%", "%%")


def _tidy(argv: list[str]) -> list[str]:
    """`argv` with dashes for underscores in flags, and negative values joined to theirs (argparse fails on -1e-3)."""
    tidy: list[str] = []
    for i, word in enumerate(argv):
        if word == "--":
            return tidy + argv[i:]
        flag, equals, value = word.partition("=")
        if re.fullmatch(r"--[A-Za-z][\w.-]*", flag):
            tidy.append(flag.replace("_", "-") + equals + value)
        elif re.match(r"-\.?\d", word) and tidy and re.fullmatch(r"--[A-Za-z][\w.-]*", tidy[-1]):
            tidy[-1] += "=" + word
        else:
            tidy.append(word)
    return tidy


def _refuse(word: str, command: str, parser: argparse.ArgumentParser) -> NoReturn:
    flag = word.partition("=")[0]
    if not flag.startswith("-"):
        raise ConfigError(f"unexpected '{word}'; see plaudit {command} --help")
    valid = [name for action in parser._actions for name in action.option_strings]
    bare = flag.lstrip("-")
    same = [name for name in valid if name.rpartition(".")[2] == bare]  # --lr is in three sections
    hint = f" (did you mean {' or '.join(same)}?)" if same else nearest(flag, valid)
    raise ConfigError(f"unknown flag '{flag}'{hint}; see plaudit {command} --help")


def _whole(low: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number at least {low}")
        return int(text)

    return check


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number at least 0")
    return value


def _presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _formatter(prog: str, **more: Any) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, **more)
