"""The pages of a labelling project: what each form does, and where it leads."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from plaudit.errors import FeedbackError
from plaudit.feedback import assignment, exchange, overview, screens
from plaudit.feedback.entries import Answer
from plaudit.feedback.learning import Learning
from plaudit.feedback.rendering import PAGES
from plaudit.feedback.store import Store
from plaudit.feedback.visits import Desk, Site, Visit, entrance, joining, on_error, owned, signed_in
from plaudit.web.security import new_token

_DAY = 24 * 3600 * 1000  # milliseconds: no duration that a client sends counts for more


def make_app(store: Store, site: Site, clock: Callable[[], float] = time.time) -> Starlette:
    """The pages. `plaudit.web.security.guard` belongs around them.

    Args:
        store: the project.
        site: what the pages say and ask.
        clock: seconds since 1970.
    """
    screens.add_practice(store)
    owner = next((one for one in store.annotators() if one.role == "owner"), None)
    if owner is None:
        owner = store.add_annotator(site.owner, "owner", new_token(), clock())  # nobody knows this: `site.token` counts
    if (project := store.meta("project")) is None:
        store.set_meta("project", project := uuid.uuid4().hex)
    learning = Learning(store)
    desk = Desk(store, site, owner, f"plaudit-{project[:12]}", clock, learning)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        learning.start()
        yield
        learning.stop()

    routes: list[BaseRoute] = [Route("/", entrance(desk)), Route("/join", joining(desk), methods=["GET", "POST"])]
    routes += PAGES.routes()
    for method, owner_only, pages in (
        ("GET", False, {"/compare": compare, "/history": history, "/history/{id:int}": answered, "/done": done}),
        ("GET", False, {"/model": model, "/results": results}),
        ("POST", False, {"/vote": vote, "/undo": undo, "/revise": revise, "/reveal": reveal}),
        ("GET", True, {"/health": health, "/class": classroom, "/export/{name}": export}),
        ("POST", True, {"/backup": backup}),
    ):
        routes += [Route(path, signed_in(desk, page, owner_only), methods=[method]) for path, page in pages.items()]
    if site.training is not None:
        routes.append(Mount("/training", owned(desk, site.training)))
    handlers: Any = {HTTPException: partial(on_error, desk), FeedbackError: partial(on_error, desk)}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def compare(visit: Visit) -> Response:
    """The next pair. With `?beside=ID`, the one after that: the page fetches it in advance."""
    beside = _numbers(visit.request.query_params.get("beside", ""))
    learning = visit.desk.learning
    priority = learning.priority if visit.plan.strategy == "uncertain" else None
    pair = assignment.next(visit.store, visit.person.id, visit.plan, visit.now, priority, beside)
    if pair is not None:
        values = screens.pair(visit.store, visit.person, visit.plan, pair, learning, beside)
        return visit.page("compare", values | {"made_ms": round(1000 * visit.now)})
    if waiting := screens.unfinished(visit.store, visit.now):
        return visit.page("waiting", {"progress": waiting})
    return RedirectResponse("/done", 303)


def vote(visit: Visit) -> Response:
    """Save an answer; it is on the disk before this returns."""
    _record(visit, revising=False)
    if visit.request.headers.get("accept") == "application/json":  # from page.js, which has the next pair already
        return JSONResponse({"saved": True})
    return RedirectResponse("/compare", 303)


def revise(visit: Visit) -> Response:
    """Another answer instead of an earlier one."""
    _record(visit, revising=True)
    return RedirectResponse("/history", 303)


def undo(visit: Visit) -> Response:
    """Take back the last answer, and ask the pair again."""
    visit.store.record(visit.form.get("uuid", ""), None, visit.person.id, "undo", now=visit.now)
    visit.desk.learning.update()
    return RedirectResponse("/compare", 303)


def _record(visit: Visit, revising: bool) -> None:
    form, now = visit.form, 1000 * visit.now
    answer, _, strong = form.get("answer", "").partition("-")
    side: Any = answer if answer in ("left", "right") else None
    if answer not in get_args(Answer) or strong not in ("", "strong") or (strong and not side):
        raise HTTPException(400, "The answer is missing. Go back and choose one.")
    kind: Any = "choose" if side else answer
    # Without JavaScript the server knows when it made the page, and nothing about pauses.
    wall = min(max(0, _milliseconds(form.get("wall_ms"), now - _milliseconds(form.get("made_ms"), now))), _DAY)
    visit.store.record(
        form.get("uuid", ""),
        next(iter(_numbers(form.get("assignment", ""))), -1),
        visit.person.id,
        "revise" if revising else kind,
        side,
        strength=2 if strong else 1,
        active_ms=min(wall, _milliseconds(form.get("active_ms"), wall)),
        wall_ms=wall,
        revised=kind,
        now=visit.now,
    )
    visit.desk.learning.update()


def reveal(visit: Visit) -> Response:
    """Make answers final, and show what wrote the responses: of one pair, or of all that are answered."""
    chosen = _numbers(visit.form.get("assignment", ""))
    for label in visit.store.labels("eval", visit.person.id):
        if (not chosen or label.assignment in chosen) and not visit.store.revealed(label.assignment, visit.person.id):
            key = f"{visit.form.get('uuid', '')}-{label.assignment}"
            visit.store.record(key, label.assignment, visit.person.id, "reveal", now=visit.now)
    return RedirectResponse(f"/history/{min(chosen)}" if chosen else "/results", 303)


def history(visit: Visit) -> Response:
    """The person's own answers, the last first."""
    page = next(iter(_numbers(visit.request.query_params.get("page", ""))), 1)
    return visit.page("history", screens.history(visit.store, visit.person, page))


def answered(visit: Visit) -> Response:
    """One of them, to revise."""
    pair = visit.store.assignment(visit.request.path_params["id"], visit.person.id)
    return visit.page("answered", screens.answered(visit.store, visit.person, pair))


def done(visit: Visit) -> Response:
    """What the person's answers show."""
    return visit.page("done", screens.done(visit.store, visit.person, visit.plan))


def model(visit: Visit) -> Response:
    """How well the model predicts the person's choices."""
    return visit.page("model", screens.model(visit.store, visit.desk.learning, visit.person))


def results(visit: Visit) -> Response:
    """Wins of one model over another: of everybody for the one who runs the project, otherwise the person's own."""
    return visit.page("results", overview.results(visit.store, visit.person))


def health(visit: Visit) -> Response:
    """What the data are worth."""
    return visit.page("health", overview.health(visit.store, visit.plan, visit.now))


def classroom(visit: Visit) -> Response:
    """Who is where."""
    return visit.page("class", overview.classroom(visit.store, visit.plan, visit.now))


def export(visit: Visit) -> Response:
    """A file with what people chose."""
    name = visit.request.path_params["name"]
    if (form := overview.EXPORTS.get(name)) is None:
        raise HTTPException(404, "There is no such export.")
    if form.names_models and overview.unlocked(visit.store, visit.person):
        raise FeedbackError("This file says which model wrote what. Lock your answers first, on the page Results.")
    headers = {"content-disposition": f'attachment; filename="{form.file}"'}
    return Response("".join(exchange.FORMS[name](visit.store)), media_type=form.media_type, headers=headers)


def backup(visit: Visit) -> Response:
    """Copy the database."""
    return visit.page("saved-copy", {"copy": visit.store.backup().name})


def _numbers(words: str) -> list[int]:
    """Ids in what a client sent."""
    return [int(word) for word in words.split(",")[:50] if word.isascii() and word.isdecimal() and len(word) < 16]


def _milliseconds(words: str | None, otherwise: float) -> int:
    """A duration that a client sent, or another number."""
    found = _numbers(words or "")
    return found[0] if found else round(otherwise)
