"""Who asks for a page: the link that was printed, joining with a code, and the cookie that both lead to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from plaudit.errors import FeedbackError
from plaudit.feedback import screens
from plaudit.feedback.assignment import Plan
from plaudit.feedback.learning import Learning
from plaudit.feedback.rendering import PAGES
from plaudit.feedback.store import Annotator, Store
from plaudit.web import security
from plaudit.web.security import Attempts, new_code, new_token, same, same_code, secret_from

Endpoint = Callable[[Request], Awaitable[Response]]
_LONGEST_NAME = 40
_RETURN = 3  # groups of letters of a return code: 59 bits, because a cookie made from it can be tried without a limit


@dataclass(frozen=True)
class Site:
    """What the pages of a project say and ask."""

    title: str  # such as the name of the run
    plan: Plan = field(default_factory=Plan)
    token: str = field(default_factory=new_token)  # opens the pages for the one who runs the project
    code: str | None = None  # with which others join; None: nobody can
    owner: str = "owner"  # the name of the one who runs the project
    guidelines: str = screens.GUIDELINES
    command: str = ""  # that trains a reward model from the answers
    training: ASGIApp | None = None  # the live page of the run, for the one who runs the project, at /training
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
    # When many people ask at once, pages wait for each other, so that a vote waits for no more than one of them. Those
    # of the owner have a place of their own: they take longer. Votes wait in the order in which they came; a lock that
    # threads wait for has no order, and some would wait for long.
    votes: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    pages: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    owner_pages: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    def person(self, secret: str) -> Annotator | None:
        """Whose secret this is."""
        if same(secret, self.site.token):
            return self.owner
        return self.store.annotator(secret) if secret else None

    def visitor(self, request: Request) -> Annotator | None:
        """Whose cookie a request has."""
        return self.person(request.cookies.get(self.cookie, ""))

    def return_code(self, request: Request) -> str:
        """The code with which the visitor comes back without a cookie; "" where the browser has none."""
        return request.cookies.get(f"{self.cookie}-code", "")

    def secret(self, name: str, code: str) -> str:
        """The secret that a name and a return code stand for in this project."""
        return secret_from(code, self.cookie, " ".join(name.split()).casefold())

    def page(self, template: str, request: Request, status: int = 200, person: Any = None, **values: Any) -> Response:
        """A template as a response."""
        values |= {"title": self.site.title, "site": self.site, "person": person}
        return PAGES.page(template, request, status, **values)


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

    @property
    def plan(self) -> Plan:
        """How pairs are given."""
        return self.desk.site.plan

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self.desk.clock()

    def page(self, template: str, values: Mapping[str, Any]) -> Response:
        """A template as a response."""
        return self.desk.page(template, self.request, person=self.person, **values)


def signed_in(desk: Desk, page: Callable[[Visit], Response], owner: bool) -> Endpoint:
    """`page` for those who are known, or for the one who runs the project only."""

    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            return await run_sync(visit, request, await _form(request), limiter=desk.votes)
        return await run_sync(visit, request, {}, limiter=desk.owner_pages if owner else desk.pages)

    def visit(request: Request, form: Mapping[str, str]) -> Response:
        if (person := desk.visitor(request)) is None:
            return RedirectResponse("/", 303)
        if owner and person.role != "owner":
            raise HTTPException(403, "Only the one who runs the project can open this page.")
        return page(Visit(desk, person, request, form))

    return endpoint


def owned(desk: Desk, app: ASGIApp) -> ASGIApp:
    """Another app, for the one who runs the project only."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        person = await run_in_threadpool(desk.visitor, request := Request(scope))
        if person is None:
            return await RedirectResponse("/", 303)(scope, receive, send)
        if person.role != "owner":
            problem = HTTPException(403, "Only the one who runs the project can open this page.")
            return await on_error(desk, request, problem)(scope, receive, send)
        await app(scope, receive, send)

    return checked


def entrance(desk: Desk) -> Callable[[Request], Response]:
    """Where the link leads: to the start, without the token in the address."""

    def entered(request: Request) -> Response:
        if (token := request.query_params.get("token")) is not None:
            if desk.person(token) is None:
                raise HTTPException(403, "This link is of an earlier start. Open the link that plaudit printed last.")
            return security.signed_in(request, desk.cookie, token)
        if (person := desk.visitor(request)) is not None:
            values = screens.start(desk.store, person, desk.site.plan) | {"return_code": desk.return_code(request)}
            return desk.page("start", request, person=person, **values)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site was followed, and a strict cookie is not sent then: load the page once more.
            return desk.page("again", request)
        return _sign_in(desk, request)

    return entered


def joining(desk: Desk) -> Endpoint:
    """The form with name and join code, for somebody new; with the own return code, for somebody who comes back.

    A name alone brings nobody back: everybody in a class knows the names. The server keeps no return code; the secret
    of the cookie follows from it, so all browsers of a person have the same one.
    """

    async def join(request: Request) -> Response:
        if request.method != "POST":
            return _sign_in(desk, request, code=request.query_params.get("code", ""))
        return await run_in_threadpool(joined, request, await _form(request))

    def joined(request: Request, form: Mapping[str, str]) -> Response:
        address, now = request.client.host if request.client else "", desk.clock()
        name, code = form.get("name", "")[:_LONGEST_NAME], form.get("code", "")
        if not desk.attempts.allowed(address, now):
            return _sign_in(desk, request, 429, "There were too many wrong codes. Try again in a minute.", name)
        if desk.site.code is None or not same_code(code, desk.site.code):
            desk.attempts.failed(address, now)
            return _sign_in(desk, request, 403, "The join code is wrong.", name)
        returning = form.get("return", "").strip()
        own = returning or new_code(_RETURN)
        secret = desk.secret(name, own)
        if returning and desk.store.annotator(secret) is None:
            desk.attempts.failed(address, now)
            problem = "The return code does not belong to this name. Without one you join as somebody new."
            return _sign_in(desk, request, 403, problem, name, code)
        try:
            if not returning:
                desk.store.add_annotator(name, "simulated" if "simulated" in form else "person", secret, now)
        except FeedbackError as error:
            hint = "; if it is yours, enter your return code" if name.strip() else ""
            return _sign_in(desk, request, 409, f"{error}{hint}", name, code)
        return security.signed_in(request, desk.cookie, secret, code=own)

    return join


def on_error(desk: Desk, request: Request, error: Exception) -> Response:
    """What is wrong, in one line, and the way back."""
    status, words = (error.status_code, error.detail) if isinstance(error, HTTPException) else (409, str(error))
    return desk.page("problem", request, status, desk.visitor(request), problem=words, back="/compare")


def _sign_in(
    desk: Desk, request: Request, status: int = 200, problem: str = "", name: str = "", code: str = ""
) -> Response:
    return desk.page("sign-in", request, status, problem=problem, given={"name": name, "code": code})


async def _form(request: Request) -> dict[str, str]:
    async with request.form(max_files=0, max_fields=20) as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}
