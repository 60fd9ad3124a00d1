"""Pages as HTML: every expression is escaped, and nothing is inline, as the content security policy demands."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from plaudit.web.security import named, visible

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_OURS = "plaudit.web"


def percent(share: float | None) -> str:
    """A share for people to read."""
    return "–" if share is None else f"{share:.0%}"


def interval(ends: tuple[float, float] | None) -> str:
    """A 95% interval of a share."""
    return "" if ends is None else f"95% interval {ends[0]:.0%} to {ends[1]:.0%}"


def ago(seconds: float) -> str:
    """How long ago something was."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s ago"
    return f"{round(seconds / 60)} min ago" if seconds < 5400 else f"{round(seconds / 3600)} h ago"


def figure(value: float) -> str:
    """A number with three significant digits."""
    if not math.isfinite(value):
        return "no number"
    size = abs(value)
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.3g}" if size == 0 or size >= 0.001 else f"{value:.1e}"
    return text.replace("-", "−")


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as the `points` of an SVG polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class Pages:
    """The templates and static files of an app, over those of every app: frame, style sheet, icon.

    Args:
        package: of the app, with a folder `pages`.
        files: names of its static files there.
        filters: functions that its templates may call.
    """

    def __init__(self, package: str, files: Sequence[str] = (), filters: Sequence[Callable[..., Any]] = ()) -> None:
        places = {"style.css": _OURS, "icon.svg": _OURS} | dict.fromkeys(files, package)
        self._content = {name: (resources.files(place) / "pages" / name).read_bytes() for name, place in places.items()}
        # In the links of the files: a new version is loaded at once.
        self.version = hashlib.sha256(b"".join(self._content.values())).hexdigest()[:12]
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package, "pages"), PackageLoader(_OURS, "pages")]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for function in (visible, named, percent, interval, ago, figure, path, *filters):
            self._environment.filters[function.__name__] = function
        self._environment.globals |= {"version": self.version, "new_uuid": lambda: str(uuid.uuid4())}

    def page(self, template: str, request: Request, status: int = 200, **values: Any) -> Response:
        """A template as a response; `title` is that of all pages. `root` is where the app is mounted."""
        root = request.scope.get("root_path", "")
        here = request.url.path
        text = self._environment.get_template(f"{template}.html.jinja").render(root=root, here=here, **values)
        return Response(text, status, media_type="text/html")

    @property
    def paths(self) -> set[str]:
        """Where the static files are."""
        return {f"/{name}" for name in self._content}

    def routes(self) -> list[BaseRoute]:
        """The routes of the static files."""
        return [Route(f"/{name}", partial(self._file, name)) for name in self._content]

    def _file(self, name: str, request: Request) -> Response:
        forever = request.query_params.get("v") == self.version
        headers = {"cache-control": "private, max-age=31536000, immutable" if forever else "no-cache"}
        return Response(self._content[name], media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
