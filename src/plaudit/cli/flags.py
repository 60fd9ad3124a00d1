"""Flags made from the settings' dataclasses, and the errors of the command line.

Values of settings remain strings here; `plaudit.config.resolve` checks them like values from a file.
"""

# We use click because the flags are made from dataclass fields at run time, and only flags that the user gives may
# override a file. typer and tyro return a complete object with the defaults filled in.

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click

from plaudit.config import allowed, known_settings, nearest, preset_names, section_class
from plaudit.models.defaults import FITTED

CONTEXT = {
    "token_normalize_func": lambda word: word.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 80,
}
PATH = click.Path(path_type=Path)
run = click.argument("run", type=PATH, help="run directory")
overwrite = click.option("--overwrite", is_flag=True, help="replace existing files and start again")


class Command(click.Command):
    """A command whose help lists its flags in groups, and explains which source of a setting overrides which."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one table for each group."""
        groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                groups.setdefault(getattr(param, "group", ("Flags", "")), []).append(record)
        for (group, about), records in groups.items():
            with formatter.section(group):
                formatter.write_text(about)
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write which source of a setting has precedence."""
        if any(isinstance(param, Setting) for param in self.params):
            formatter.write_paragraph()
            formatter.write_text(
                "A flag overrides --config, which overrides the settings of a run directory that is continued, which "
                "override --preset, which overrides the defaults. Dashes and underscores are the same in a flag."
            )


class Setting(click.Option):
    """The flag of one setting; the parameter's name is the setting's full name, with __ for the dot."""

    def __init__(self, section: str, field: Field[Any], *, bare: bool) -> None:
        full = f"{section}.{field.name}" if section else field.name
        self.group = f"Settings: {section or 'general'}", section_class(section).__doc__ or ""
        kind = type(field.default)
        default = f"{field.default:g}" if kind is float else field.default if kind is not tuple else "none"
        if full in FITTED:
            default = f"{default} for movie-gpt2, otherwise by the model's size"
        notes = [field.metadata["unit"], ", ".join(field.metadata["choices"]), allowed(field.metadata)]
        names = dict.fromkeys(filter(None, [field.metadata["short"], field.name if bare else "", full]))
        super().__init__(
            [*(f"--{name.replace('_', '-')}" for name in names), full.replace(".", "__")],
            metavar={int: "N", float: "X", str: "NAME", tuple: "NAME" if field.metadata["choices"] else "PART"}[kind],
            multiple=kind is tuple,
            help=f"{field.metadata['help']} [{'; '.join(filter(None, [*notes, f'default {default}']))}]",
            callback=_not_a_flag,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """The flag's shortest name, and its help."""
        return f"{self.opts[0]} {self.metavar}", self.help or ""


def settings(*sections: str, bare: bool) -> list[click.Parameter]:
    """--config, --preset, and the flags of general settings, data and `sections`; `bare` omits the sections' names."""
    presets = f"built-in settings: {', '.join(preset_names())}"
    layers = (("--config", "FILE", "settings from a TOML file"), ("--preset", "NAME", presets))
    own = [
        (section, field)
        for section in dict.fromkeys(("", "data", *sections))
        for field in fields(section_class(section))
    ]
    return [
        *(click.Option([n], metavar=m, help=h, callback=_not_a_flag) for n, m, h in layers),
        *(Setting(section, field, bare=bare and section in sections) for section, field in own),
    ]


def by_full_name(params: dict[str, Any]) -> dict[str, Any]:
    """The settings among the parameters of a command that the user gave, by full name."""
    names = {name.replace(".", "__"): name for name in known_settings()}
    return {names[name]: value for name, value in params.items() if name in names and value not in (None, ())}


def directory(out: str) -> list[click.Parameter]:
    """--out, --resume and --overwrite: where a command trains, and what it does with files that exist there."""

    def exclusive(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        if value and (ctx.params.get("resume") or ctx.params.get("overwrite")):
            raise click.UsageError("--resume and --overwrite exclude each other")
        return value

    about = f"run directory [default {out}]"
    return [
        click.Option(["--out"], metavar="DIR", type=PATH, default=out, help=about, callback=_not_a_flag),
        click.Option(["--resume"], is_flag=True, help="continue the run that was started there", callback=exclusive),
        click.Option(["--overwrite"], is_flag=True, help="delete existing results and start again", callback=exclusive),
    ]


def count(*names: str, low: int, help: str, default: int | None = None) -> Any:
    """A decorator: a flag whose value is a whole number, at least `low`."""
    kind = click.IntRange(min=low)
    kind.name = "whole number"  # for "is not a valid ..."
    return click.option(*names, metavar="N", type=kind, default=default, show_default=True, help=help)


def _not_a_flag(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return `value`. If it is the next flag, the user forgot the value: raise UsageError."""
    for each in value if isinstance(value, tuple) else (value,):
        if str(each).startswith("--"):
            raise click.UsageError(f"option '{param.opts[0]}' requires a value, not {each}")
    return value


def message(error: click.ClickException, group: click.Group, argv: list[str]) -> str:
    """The error in one line, with the nearest name and the command that helps."""
    command = group.commands.get(argv[0].replace("_", "-")) if argv else None
    path = f"plaudit {command.name}" if command else "plaudit"
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchCommand):
        names = [*group.commands]
        return f"unknown command '{error.command_name}'{nearest(error.command_name, names)}: {', '.join(names)}"
    if isinstance(error, click.NoSuchOption):
        flag = error.option_name
        if not command:
            return f"'{flag}' stands before the command: write plaudit COMMAND {flag} ...; see plaudit --help"
        flags = [name for param in command.params for name in param.opts if name.startswith("--")]
        same = [name for name in flags if name.rpartition(".")[2] == flag.lstrip("-")]  # --lr is in three sections
        near = flags if "." in flag else [param.opts[0] for param in command.params if param.opts[0].startswith("--")]
        text = f"unknown flag '{flag}'" + (f" (did you mean {' or '.join(same)}?)" if same else nearest(flag, near))
    return f"{text[0].lower()}{text[1:]}; see {path} --help"
