"""The commands that serve pages: `plaudit label`, `compare` and `loop` for people who compare, `watch` and `chat`.

The server of a page never imports torch: a process of its own opens the models.
"""

from __future__ import annotations

import contextlib
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from plaudit.cli import flags
from plaudit.cli.beside import beside
from plaudit.errors import RunError

FOLDER, COMPARED = "feedback", "compare"  # in a run directory
_PAIRS = ("-m", "plaudit.labelling.pairs")
_SHORTEST_CODE = 6  # letters and digits


def _code(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse a join code that anybody would guess."""
    from plaudit.web.security import plain_code

    if value is not None and len(plain_code(value)) < _SHORTEST_CODE:
        raise click.UsageError(
            f"--join {value}: too easy to guess; use {_SHORTEST_CODE} letters or digits or more, such as FILM-2026"
        )
    return value


comparisons = click.Option(
    ["--comparisons"], is_flag=True, help="learn from what people chose in RUN, with plaudit label"
)
_listening = [
    click.option(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines reach the page"
    ),
    flags.count("--port", low=1, help="port to listen at; by default the first free one from 8765"),
    click.option("--browser/--no-browser", default=True, help="open the page in a browser"),
]
_served = [
    *_listening,
    flags.count("--overlap", low=1, default=1, help="votes for each pair, by different people"),
    click.option("--join", metavar="CODE", callback=_code, help="code with which others may join, such as a class"),
]
_ask = click.option(
    "--ask",
    type=click.Choice(["random", "uncertain", "disagreement"]),
    default="random",
    show_default=True,
    help="which pairs people see: random ones; mostly those whose answer tells the live model most; or mostly those "
    "about which the members of a reward model disagree most: a loop then trains several each round, and label needs "
    "a run with reward_model.members. Below about 300 votes random ones do as well",
)
_each = flags.count("--each", low=1, help="pairs for each person; by default as many as there are")


def _with(options: list[Any]) -> Any:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.command("label", cls=flags.Command)
@click.argument("run", type=flags.PATH)
@flags.count("--number", low=1, default=200, help="pairs of responses to make")
@click.option(
    "--model",
    "stage",
    default="auto",
    help="model that writes them: sft, ppo, model (the base model); auto is sft where it has finished",
)
@click.option("--pairs", type=flags.PATH, help="file of pairs from elsewhere, instead of making some")
@_ask
@_each
@_with(_served)
def label(
    run: Path, number: int, stage: str, pairs: Path | None, ask: str, each: int | None, host: str, port: int | None,
    browser: bool, overlap: int, join: str | None,
) -> None:  # fmt: skip
    """Compare pairs of responses on a page, for a reward model.

    The page opens at once, and the pairs are made while you read the guidelines. Your choices are in RUN/feedback;
    plaudit reward-model --out RUN --comparisons learns from them.
    """
    from plaudit.feedback.assignment import Plan
    from plaudit.feedback.visits import Site

    if ask == "disagreement":
        _check_ensemble(run, pairs)
    plan = Plan(overlap=overlap, votes=each, strategy=_strategy(ask), purpose="train")
    command = f"plaudit reward-model --out {run} --comparisons"
    site = Site(title=run.resolve().name, plan=plan, code=join, command=command, training=_live_page(run))
    folder = run / FOLDER
    arguments = [*_PAIRS, str(folder), "--first", str(run), stage, "--number", str(0 if pairs else number)]
    arguments += ["--disagreement"] if ask == "disagreement" else []
    _serve(folder, site, arguments, pairs, host, port, browser)


def _strategy(ask: str) -> Any:
    """What the server does: it opens no reward model, so the pairs on which these disagree are chosen when written."""
    return "uncertain" if ask == "uncertain" else "random"


def _check_ensemble(run: Path, pairs: Path | None) -> None:
    from plaudit.models.ensemble import member_folders

    if pairs is not None:
        raise click.UsageError("--ask disagreement chooses among pairs that it writes; leave out --pairs or --ask")
    if len(member_folders(run / "reward_model")) < 2:
        raise RunError(
            f"{run}: --ask disagreement needs a reward model with several members; run: plaudit reward-model {run} "
            "--members 4"
        )


@click.command("compare", cls=flags.Command)
@click.argument("run", type=flags.PATH)
@click.argument("other", type=flags.PATH, required=False)
@click.option(
    "--models",
    nargs=2,
    default=None,
    metavar="A B",
    help="models to compare; by default the two policies, or SFT model and policy of one run",
)
@flags.count("--number", low=1, default=100, help="held-out prompts")
@_each
@_with(_served)
def compare(
    run: Path, other: Path | None, models: tuple[str, str] | None, number: int, each: int | None, host: str,
    port: int | None, browser: bool, overlap: int, join: str | None,
) -> None:  # fmt: skip
    """Compare two models, not knowing which is which."""
    from plaudit.feedback.assignment import Plan
    from plaudit.feedback.visits import Site

    for given in filter(None, (run, other)):
        if not (given / "config.toml").exists():
            raise RunError(f"{given}: no run here (config.toml is missing)")
    first, second = models or (("policy", "policy") if other else ("sft", "policy"))
    against = other or run
    plan = Plan(overlap, each, strategy="random", purpose="eval", practice=0, gold_share=0.0)
    site = Site(title="Blind comparison", plan=plan, code=join)  # without names: who knows a style would look for it
    folder = run / COMPARED / f"{first}-{against.resolve().name}-{second}"
    arguments = [
        *_PAIRS,
        str(folder),
        "--first",
        str(run),
        first,
        "--second",
        str(against),
        second,
        "--number",
        str(number),
        "--purpose",
        "eval",
    ]
    _serve(folder, site, arguments, None, host, port, browser)


def _live_page(run: Path) -> Any:
    from plaudit.monitor.app import make_app

    return make_app(run)


@click.command("watch", cls=flags.Command)
@click.argument("run", type=flags.PATH)
@click.argument("other", type=flags.PATH, required=False)
@_with(_listening)
def watch(run: Path, other: Path | None, host: str, port: int | None, browser: bool) -> None:
    """Watch a training run in the browser, beside another one.

    The page shows how far each stage is, what is wrong, the curves with their healthy bands, responses token by token,
    and all rollouts. It may be opened before, during or after the training, and changes nothing.
    """
    from plaudit.monitor.server import watch as serve

    serve(run, other, host, port, _opening(browser))


class _TwoModels(flags.Command):
    """A command whose --models takes two names, as `--models sft,ppo` or as `--models sft ppo`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the two words, or a word and the next one, with a comma."""
        words = [*args]
        for place, word in enumerate(args[:-2]):
            first, second = args[place + 1 : place + 3]
            if word == "--models" and "," not in first and not second.startswith("-"):
                words[place + 1 : place + 3] = [f"{first},{second}"]
                break
        return super().parse_args(ctx, words)


def _two(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, str] | None:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if len(names) != 2 or not all(names):
        raise click.UsageError(f"--models {value}: name two models, as in --models sft,ppo")
    return names[0], names[1]


@click.command("chat", cls=_TwoModels)
@click.argument("run", type=flags.PATH)
@click.option(
    "--models",
    metavar="A,B",
    callback=_two,
    help="models that answer: sft, ppo, model (the base model), a folder or a hub id; by default SFT and the policy",
)
@flags.count("--timeout", low=1, default=300, help="seconds for the answers to one prompt")
@_with(_listening)
def chat(run: Path, models: tuple[str, str] | None, timeout: int, host: str, port: int | None, browser: bool) -> None:
    """Ask two models in the browser, side by side.

    Each answer stands there with its score, the judge's verdict, its KL, and the probability of each token. The page
    opens at once, and the models are opened meanwhile. Nothing is written into RUN.
    """
    from plaudit.chat.server import chat as serve

    serve(run, models, host, port, timeout, _opening(browser))


def _opening(browser: bool) -> Callable[[str], None]:
    """Prints the link, and opens it in a browser."""

    def ready(link: str) -> None:
        print(f"Open {link}", flush=True)
        if browser:
            webbrowser.open(link)

    return ready


def _serve(
    folder: Path, site: Any, arguments: list[str], pairs: Path | None, host: str, port: int | None, browser: bool
) -> None:
    """Serve the page, with the process that makes the pairs beside it."""
    from plaudit.feedback.server import announce, serve
    from plaudit.feedback.store import Store

    with contextlib.closing(Store.open(folder)) as store:
        # Whoever is quick must not read that all is done while the process beside the page is still starting.
        key = "loop" if "plaudit.labelling.rounds" in arguments else "pairs"
        store.set_progress(key, 0, 1, "starting")
        if pairs is not None:
            from plaudit.feedback.importing import load

            found = load(store, pairs)
            left_out = "".join(f"; {count} {reason}" for reason, count in found.left_out.items())
            print(f"{pairs}: {found.pairs} new pairs, {found.votes} votes{left_out}", file=sys.stderr)

    def ready(site: Any) -> None:
        announce(site)
        if browser:
            webbrowser.open(site.link)

    with beside([sys.executable, *arguments], folder, key):
        serve(folder, site, host, port, ready=ready)


@click.command("loop", cls=flags.Command)
@click.argument("run", type=flags.PATH)
@flags.count("--rounds", low=1, default=2, help="rounds of comparing and training")
@flags.count("--votes", low=10, default=100, help="votes that a round waits for")
@click.option("--algorithm", default="ppo", show_default=True, help="what trains the policy")
@_ask
@_with(_served)
def loop(
    run: Path, rounds: int, votes: int, algorithm: str, ask: str, host: str, port: int | None, browser: bool,
    overlap: int, join: str | None,
) -> None:  # fmt: skip
    """Compare, train on the choices, compare again.

    Each round asks about responses of the newest policy, trains a reward model on all choices so far, and with it the
    next policy. RUN/report.html has the figures of each round.
    """
    from plaudit.feedback.assignment import Plan
    from plaudit.feedback.visits import Site

    plan = Plan(overlap=overlap, newest=True, strategy=_strategy(ask))
    site = Site(title=run.resolve().name, plan=plan, code=join, training=_live_page(run))
    words = ["--rounds", str(rounds), "--votes", str(votes), "--algorithm", algorithm]
    words += ["--disagreement"] if ask == "disagreement" else []
    _serve(run / FOLDER, site, ["-m", "plaudit.labelling.rounds", str(run), *words], None, host, port, browser)
