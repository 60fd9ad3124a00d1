"""The pages of a training run: overview, curves, responses token by token, all rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from plaudit.config import read_toml
from plaudit.errors import PlauditError
from plaudit.evaluation.diagnosis import FAULTS
from plaudit.monitor import reading, tokens
from plaudit.monitor.curves import curves
from plaudit.monitor.reading import Stage, stages
from plaudit.monitor.rollouts import SORTS, Found, Rollouts
from plaudit.training.metrics import PART, TOKENS_FILE
from plaudit.web.rendering import Pages

REFRESH = 4  # seconds between two looks of a page, while something may change
_LONGEST_SEARCH = 200


def duration(seconds: float) -> str:
    """A time that is left, for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


PAGES = Pages("plaudit.monitor", ["watch.js", "watch.css"], [duration])


@dataclass(frozen=True)
class Watched:
    """The runs that are shown."""

    run: Path
    other: Path | None = None
    indices: dict[Path, Rollouts] = field(default_factory=dict)

    @property
    def runs(self) -> list[Path]:
        """One or two run directories."""
        return [path for path in (self.run, self.other) if path is not None]

    @property
    def title(self) -> str:
        """Their names."""
        own = self.run.resolve().name
        return own if self.other is None else f"{own} and {self.other.resolve().name}"

    def rollouts(self, stage: Stage) -> Rollouts:
        """The index of a stage's rollouts."""
        return self.indices.setdefault(stage.folder, Rollouts(stage.folder / "rollouts.jsonl"))


def make_app(run: Path, other: Path | None = None) -> Starlette:
    """The pages of a run, beside those of another one. They may be mounted under any path, by any guarded app."""
    watched = Watched(run, other)
    routes: list[BaseRoute] = [
        Route(path, partial(_answer, watched, page))
        for path, page in (("/", overview), ("/curves", draw), ("/tokens", sample), ("/rollouts", browse))
    ]
    handlers: Any = {HTTPException: partial(_problem, watched)}
    return Starlette(routes=[*routes, *PAGES.routes()], exception_handlers=handlers)


async def _answer(watched: Watched, page: Callable[[Watched, Request], Response], request: Request) -> Response:
    """A page, or 304 where nothing has changed since the browser got it."""
    versions = await run_in_threadpool(lambda: [reading.version(run) for run in watched.runs])
    tag = f'"{"-".join(versions)}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    response = await run_in_threadpool(page, watched, request)
    response.headers["etag"] = tag
    return response


def _problem(watched: Watched, request: Request, error: Exception) -> Response:
    status, words = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    back = f"{request.scope.get('root_path', '')}/"
    return PAGES.page("problem", request, status, title=watched.title, problem=words, back=back)


def _page(watched: Watched, request: Request, template: str, **values: Any) -> Response:
    # A run that has ended may be continued, so its page still looks now and then.
    refresh = REFRESH if any(map(reading.in_use, watched.runs)) else 5 * REFRESH
    return PAGES.page(template, request, title=watched.title, refresh=refresh, watched=watched, **values)


def _settings(run: Path) -> dict[str, Any]:
    try:
        return read_toml(run / "config.toml")
    except (PlauditError, OSError, ValueError):
        return {}


def _chosen(watched: Watched, request: Request, logs: str) -> tuple[list[Stage], Stage | None]:
    """The stages that have a log, and the one that is asked for: by default the last that was written."""
    able = [stage for stage in stages(watched.run) if (stage.folder / logs).exists()]
    key = request.query_params.get("stage")
    if key is not None:
        found = next((stage for stage in able if stage.key == key), None)
        if found is None:
            raise HTTPException(404, "There is no such stage here, or it has logged nothing yet.")
        return able, found
    return able, max(able, key=lambda stage: _written(stage.folder / logs), default=None)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _same(watched: Watched, stage: Stage | None) -> Stage | None:
    """The stage of the same name in the other run."""
    if watched.other is None or stage is None:
        return None
    return next((one for one in stages(watched.other) if one.key == stage.key), None)


def _count(request: Request, name: str) -> int | None:
    word = request.query_params.get(name, "")
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 10 else None


def overview(watched: Watched, request: Request) -> Response:
    """The stages, what is wrong, and the preflight checks."""
    runs = [
        (path.resolve().name, reading.overview(path, _settings(path)))
        for path in (watched.run, watched.other)
        if path is not None
    ]
    return _page(watched, request, "overview", runs=runs, faults=FAULTS)


def draw(watched: Watched, request: Request) -> Response:
    """The curves of a stage."""
    able, stage = _chosen(watched, request, "metrics.jsonl")
    beside = _same(watched, stage)
    found = curves(stage.metrics, beside.metrics if beside else [], stage.kind) if stage else []
    return _page(watched, request, "curves", stages=able, stage=stage, curves=found, beside=beside)


def sample(watched: Watched, request: Request) -> Response:
    """Responses token by token."""
    able, stage = _chosen(watched, request, TOKENS_FILE)
    steps = tokens.iterations(stage) if stage else []
    asked = _count(request, "iteration")
    iteration = asked if asked in steps else (steps[-1] if steps else None)
    colour = request.query_params.get("colour", "advantages")
    if colour not in tokens.COLOURS:
        raise HTTPException(404, "There is no such figure of a token.")
    found = tokens.samples(stage, iteration, colour) if stage and iteration is not None else []
    beside = _same(watched, stage)
    theirs = tokens.samples(beside, iteration, colour) if beside and iteration is not None else []
    by_prompt = {one.prompt: one for one in theirs}
    pairs = [(one, by_prompt.get(one.prompt)) for one in found]
    return _page(
        watched, request, "tokens", stages=able, stage=stage, steps=steps, iteration=iteration, colour=colour,
        colours=tokens.COLOURS, about=tokens.ABOUT[colour], pairs=pairs, latest=asked is None,
    )  # fmt: skip


def browse(watched: Watched, request: Request) -> Response:
    """All rollouts."""
    able, stage = _chosen(watched, request, "rollouts.jsonl")
    sort, text = request.query_params.get("sort", ""), request.query_params.get("text", "")[:_LONGEST_SEARCH]
    if sort not in SORTS:
        raise HTTPException(404, "Rollouts cannot be sorted by that.")
    rising = request.query_params.get("order") == "rising"
    iteration, page = _count(request, "iteration"), _count(request, "page") or 1
    index = watched.rollouts(stage) if stage else None
    found = index.find(iteration, sort, not rising, text, page) if index is not None else Found([], 0, 1, 1, None)
    parts = list(dict.fromkeys(name for row in found.rows for name in row if name.startswith(PART)))
    return _page(
        watched, request, "rollouts", stages=able, stage=stage, found=found, sorts=SORTS, sort=sort, rising=rising,
        text=text, iteration=iteration, parts=parts, prefix=PART,
    )  # fmt: skip
