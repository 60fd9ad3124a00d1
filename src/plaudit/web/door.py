"""The door of an app that one person opens: the link with the token, and the cookie that it leads to."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from plaudit.web.rendering import Pages
from plaudit.web.security import same, signed_in


def behind_door(app: ASGIApp, pages: Pages, title: str, token: str, cookie: str) -> ASGIApp:
    """`app` for those who have followed the link with `token`, which is kept in the cookie of that name."""

    async def entered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        request = Request(scope)
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/":
            if same(given, token):
                return await signed_in(request, cookie, token)(scope, receive, send)
            problem = "This link is of an earlier start. Open the link that plaudit printed last."
        elif request.url.path in pages.paths or same(request.cookies.get(cookie, ""), token):
            return await app(scope, receive, send)
        elif request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site was followed, and a strict cookie is not sent then: load the page once more.
            return await pages.page("again", request, title=title)(scope, receive, send)
        else:
            problem = "To open this page, follow the link that plaudit printed when it started."
        await pages.page("problem", request, 403, title=title, problem=problem, back="/")(scope, receive, send)

    return entered
