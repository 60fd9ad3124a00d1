"""The pages of a labelling project: who may see what, what a form does, and where it leads."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from plaudit.errors import FeedbackError
from plaudit.feedback import assignment, exchange, screens
from plaudit.feedback.assignment import Plan
from plaudit.feedback.learning import Learning
from plaudit.feedback.security import Attempts, new_token, same, same_code
from plaudit.feedback.store import Annotator, Answer, Store

YEAR = 365 * 24 * 3600
LONGEST_NAME = 40
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True)
class Site:
    """What the pages of a project say and ask."""

    title: str  # such as the name of the run
    plan: Plan = Plan()
    token: str = field(default_factory=new_token)  # opens the pages for the one who runs the project
    code: str | None = None  # with which others join; None: nobody can
    owner: str = "owner"  # the name of the one who runs the project
    guidelines: str = screens.GUIDELINES
    command: str = ""  # that trains a reward model from the answers
    address: str = ""  # where the pages are, such as http://127.0.0.1:8765; `serve` sets it

    @property
    def link(self) -> str:
        """The link of the one who runs the project."""
        return f"{self.address}/?token={self.token}"


@dataclass(frozen=True)
class Desk:
    """What all requests share."""

    store: Store
    site: Site
    owner: Annotator
    cookie: str  # browsers share cookies between the ports of one machine, so each project has a name of its own
    clock: Callable[[], float]
    learning: Learning
    attempts: Attempts = field(default_factory=Attempts)

    def person(self, secret: str) -> Annotator | None:
        """Whose secret this is."""
        return self.owner if same(secret, self.site.token) else self.store.annotator(secret) if secret else None


@dataclass(frozen=True)
class Visit:
    """One request by somebody who is known."""

    desk: Desk
    person: Annotator
    request: Request
    form: Mapping[str, str]

    @property
    def store(self) -> Store:
        """The project."""
        return self.desk.store

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """A template as a response."""
        return _page(self.desk, self.request, name, status, self.person, **values)


def make_app(store: Store, site: Site, clock: Callable[[], float] = time.time) -> Starlette:
    """The pages. `plaudit.feedback.security.guard` belongs around them.

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

    pages = [
        ("/compare", compare, "GET", "everybody"),
        ("/vote", vote, "POST", "everybody"),
        ("/undo", undo, "POST", "everybody"),
        ("/history", history, "GET", "everybody"),
        ("/history/{id:int}", answered, "GET", "everybody"),
        ("/revise", revise, "POST", "everybody"),
        ("/reveal", reveal, "POST", "everybody"),
        ("/done", done, "GET", "everybody"),
        ("/model", model, "GET", "everybody"),
        ("/results", results, "GET", "everybody"),
        ("/health", health, "GET", "owner"),
        ("/class", classroom, "GET", "owner"),
        ("/export/{name}", export, "GET", "owner"),
        ("/backup", backup, "POST", "owner"),
    ]
    routes = [Route(path, _signed_in(desk, page, who), methods=[method]) for path, page, method, who in pages]
    routes += [Route("/", _entrance(desk)), Route("/join", _join(desk), methods=["GET", "POST"])]
    routes += [Route(f"/{name}", _static(name, kind)) for name, kind in STATIC.items()]
    handlers = {HTTPException: _on_http_error(desk), FeedbackError: _on_feedback_error(desk)}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


# Who somebody is


def _entrance(desk: Desk) -> Callable[[Request], Response]:
    def entrance(request: Request) -> Response:
        if (token := request.query_params.get("token")) is not None:  # the link that was printed
            if desk.person(token) is None:
                raise HTTPException(403, "This link is of an earlier start. Open the link that plaudit printed last.")
            return _signed(desk, request, token)
        person = desk.person(request.cookies.get(desk.cookie, ""))
        if person is not None:
            return _page(desk, request, "start", 200, person, **screens.start(desk.store, person, desk.site.plan))
        if request.headers.get("sec-fetch-site") == "cross-site":
            # The link was followed from another site, to which a strict cookie is not sent: load the page once more.
            return _page(desk, request, "again")
        return _page(desk, request, "sign-in")

    return entrance


def _join(desk: Desk) -> Callable[[Request], Any]:
    async def join(request: Request) -> Response:
        if request.method == "GET":
            return _page(desk, request, "sign-in")
        form = await _form(request)
        return await run_in_threadpool(joined, request, form.get("code", ""), form.get("name", ""), "simulated" in form)

    def joined(request: Request, code: str, name: str, simulated: bool) -> Response:
        address = request.client.host if request.client else ""
        if not desk.attempts.allowed(address, desk.clock()):
            return _page(desk, request, "sign-in", 429, problem="Too many wrong codes. Try again in a minute.")
        if desk.site.code is None or not same_code(code, desk.site.code):
            desk.attempts.failed(address, desk.clock())
            return _page(desk, request, "sign-in", 403, problem="The join code is wrong.", name=name)
        name, secret = " ".join(name.split())[:LONGEST_NAME], new_token()
        try:
            desk.store.add_annotator(name, "simulated" if simulated else "person", secret, desk.clock())
        except FeedbackError as error:
            return _page(desk, request, "sign-in", 409, problem=str(error), code=code)
        return _signed(desk, request, secret)

    return join


def _signed(desk: Desk, request: Request, secret: str) -> Response:
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(desk.cookie, secret, max_age=YEAR, httponly=True, samesite="strict", secure=secure)
    return response


def _signed_in(desk: Desk, page: Callable[[Visit], Response], who: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        form = await _form(request) if request.method == "POST" else {}
        return await run_in_threadpool(visit, request, form)

    def visit(request: Request, form: Mapping[str, str]) -> Response:
        person = desk.person(request.cookies.get(desk.cookie, ""))
        if person is None:
            return RedirectResponse("/", 303)
        if who == "owner" and person.role != "owner":
            raise HTTPException(403, "Only the one who runs the project can open this page.")
        return page(Visit(desk, person, request, form))

    return endpoint


async def _form(request: Request) -> dict[str, str]:
    async with request.form(max_files=0, max_fields=20) as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}


# What people do


def compare(visit: Visit) -> Response:
    """The next pair. With `?beside=ID`, the one after that: the page fetches it in advance."""
    plan, now = visit.desk.site.plan, visit.desk.clock()
    beside = _numbers(visit.request.query_params.get("beside", ""))
    priority = visit.desk.learning.priority if plan.strategy == "uncertain" else None
    pair = assignment.next(visit.store, visit.person.id, plan, now, priority, beside)
    if pair is not None:
        return visit.page("compare", **screens.pair(visit.store, visit.person, plan, pair, len(beside)))
    if waiting := screens.unfinished(visit.store, now):
        return visit.page("waiting", progress=waiting)
    return RedirectResponse("/done", 303)


def vote(visit: Visit) -> Response:
    """Save an answer; it is on the disk before this returns."""
    _record(visit, revising=False)
    visit.desk.learning.update()
    if visit.request.headers.get("accept") == "application/json":
        return JSONResponse({"saved": True})
    return RedirectResponse("/compare", 303)


def revise(visit: Visit) -> Response:
    """Another answer instead of an earlier one."""
    _record(visit, revising=True)
    visit.desk.learning.update()
    return RedirectResponse("/history", 303)


def undo(visit: Visit) -> Response:
    """Take back the last answer, and ask the pair again."""
    visit.store.record(visit.form.get("uuid", ""), None, visit.person.id, "undo", now=visit.desk.clock())
    visit.desk.learning.update()
    return RedirectResponse("/compare", 303)


def _record(visit: Visit, revising: bool) -> None:
    form, now = visit.form, visit.desk.clock()
    answer, _, strong = form.get("answer", "").partition("-")
    if answer not in get_args(Answer) or strong not in ("", "strong"):
        raise HTTPException(400, "An answer is missing. Go back and choose one.")
    side = answer if answer in ("left", "right") else None
    kind = "choose" if side else answer
    # Without JavaScript the page knows only when it was made, and nothing about pauses.
    wall = _milliseconds(form.get("wall_ms"), 1000 * now - _milliseconds(form.get("made_ms"), 1000 * now))
    visit.store.record(
        form.get("uuid", ""),
        next(iter(_numbers(form.get("assignment", ""))), -1),
        visit.person.id,
        "revise" if revising else kind,  # type: ignore[arg-type]
        side,  # type: ignore[arg-type]
        strength=2 if strong else 1,
        active_ms=min(wall, _milliseconds(form.get("active_ms"), wall)),
        wall_ms=wall,
        revised=kind,  # type: ignore[arg-type]
        now=now,
    )


def reveal(visit: Visit) -> Response:
    """Make answers final, and show what wrote the responses: of one pair, or of all that are answered."""
    chosen = _numbers(visit.form.get("assignment", ""))
    for label in visit.store.labels("eval", visit.person.id):
        if (not chosen or label.assignment in chosen) and not visit.store.revealed(label.assignment, visit.person.id):
            key = f"{visit.form.get('uuid', '')}-{label.assignment}"
            visit.store.record(key, label.assignment, visit.person.id, "reveal", now=visit.desk.clock())
    return RedirectResponse(f"/history/{min(chosen)}" if chosen else "/results", 303)


def history(visit: Visit) -> Response:
    """The person's own answers, the last first."""
    page = next(iter(_numbers(visit.request.query_params.get("page", ""))), 1)
    return visit.page("history", **screens.history(visit.store, visit.person, page))


def answered(visit: Visit) -> Response:
    """One of them, to revise."""
    pair = visit.store.assignment(visit.request.path_params["id"], visit.person.id)
    return visit.page("answered", **screens.answered(visit.store, visit.person, pair))


def done(visit: Visit) -> Response:
    """What the person's answers show."""
    return visit.page("done", **screens.done(visit.store, visit.person, visit.desk.site.plan))


def model(visit: Visit) -> Response:
    """How well the model predicts the person's choices."""
    return visit.page("model", **screens.model(visit.desk.learning, visit.person))


def results(visit: Visit) -> Response:
    """Wins of one model over another: of everybody for the one who runs the project, otherwise the person's own."""
    return visit.page("results", **screens.results(visit.store, visit.person))


def health(visit: Visit) -> Response:
    """What the data are worth."""
    return visit.page("health", **screens.health(visit.store, visit.desk.clock()))


def classroom(visit: Visit) -> Response:
    """Who is where."""
    return visit.page("class", **screens.classroom(visit.store, visit.desk.site.plan, visit.desk.clock()))


def export(visit: Visit) -> Response:
    """A file with what people chose."""
    if (form := screens.EXPORTS.get(visit.request.path_params["name"])) is None:
        raise HTTPException(404, "There is no such export.")
    headers = {"content-disposition": f'attachment; filename="{form.file}"'}
    return Response(form.write(visit.store), media_type=form.media_type, headers=headers)


def backup(visit: Visit) -> Response:
    """Copy the database."""
    return visit.page("saved-copy", copy=visit.store.backup().name)
