"""Pages as HTML: every expression is escaped, and nothing is inline, as the content security policy demands."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from plaudit.feedback.security import visible
from plaudit.feedback.statistics import Share

FILES = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_PAGES = resources.files("plaudit.feedback") / "pages"
_CONTENT = {name: (_PAGES / name).read_bytes() for name in FILES}
VERSION = hashlib.sha256(b"".join(_CONTENT.values())).hexdigest()[
    :12
]  # in their links: a new version is loaded at once


def percent(share: float | None) -> str:
    """A share for people to read."""
    return "–" if share is None else f"{share:.0%}"


def interval(ends: tuple[float, float] | None) -> str:
    """A 95% interval of a share."""
    return "" if ends is None else f"95% interval {ends[0]:.0%} to {ends[1]:.0%}"


def counts(share: Share) -> str:
    """Numerator, denominator and interval."""
    if not share.of:
        return "no votes yet"
    return f"{share.hits:,.10g} of {share.of:,}; {interval(share.interval)}"


def ago(seconds: float) -> str:
    """How long ago something was."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s ago"
    return f"{round(seconds / 60)} min ago" if seconds < 5400 else f"{round(seconds / 3600)} h ago"


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as the `points` of an SVG polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("plaudit.feedback", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for function in (visible, percent, interval, counts, ago, path):
        environment.filters[function.__name__] = function
    environment.globals |= {"version": VERSION, "new_uuid": lambda: str(uuid.uuid4())}
    return environment


ENVIRONMENT = _environment()


def page(template: str, request: Request, status: int = 200, **values: Any) -> Response:
    """A template as a response."""
    text = ENVIRONMENT.get_template(f"{template}.html.jinja").render(here=request.url.path, **values)
    return Response(text, status, media_type="text/html")


def file(name: str, request: Request) -> Response:
    """The style sheet, the script or the icon."""
    forever = request.query_params.get("v") == VERSION
    headers = {"cache-control": "private, max-age=31536000, immutable" if forever else "no-cache"}
    return Response(_CONTENT[name], media_type=FILES[name], headers=headers)
