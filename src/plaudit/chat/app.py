"""The page of a session: the form, the queue, the history, and its export."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from plaudit.chat import answers
from plaudit.chat.session import Prompt, Sampling, Session
from plaudit.chat.worker import Worker
from plaudit.errors import FeedbackError
from plaudit.web.rendering import Pages

REFRESH = 0.7, 4.0  # seconds between two looks of a page: while something is awaited, and otherwise
TOGETHER = 8  # conversations on a page
MOST_ANSWERS, LONGEST_ANSWER = 4, 1000
_HIGHEST_SEED = 2**31 - 1
_TEMPERATURES = 0.05, 5.0
_SHORTENED = 90  # characters of a prompt in a list


def clock(seconds: float) -> str:
    """A time of day."""
    return time.strftime("%H:%M", time.localtime(seconds))


PAGES = Pages("plaudit.chat", ["chat.js", "chat.css"], [clock, answers.spoken, answers.title_of])


class Chat:
    """The page.

    Args:
        title: what the page is called.
        defaults: the run's settings.
        command: with which the page is started again.
    """

    def __init__(self, session: Session, worker: Worker, defaults: Sampling, title: str, command: str) -> None:
        self.session, self.worker, self.title, self.command = session, worker, title, command
        self._last = defaults

    def app(self) -> Starlette:
        """The routes, to be served behind `plaudit.web.door.behind_door` and `plaudit.web.security.guard`."""
        routes: list[BaseRoute] = [
            Route("/", self.page),
            Route("/export.jsonl", self.export),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/start", self.start, methods=["POST"]),
        ]
        handlers: Any = dict.fromkeys((HTTPException, FeedbackError), self.problem)
        return Starlette(routes=[*routes, *PAGES.routes()], exception_handlers=handlers)

    def page(self, request: Request) -> Response:
        """The form, the state of the models, and the newest conversations."""
        session = self.session
        tag = f'"{PAGES.version}-{session.version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        conversations = session.newest_first()
        pages = max(1, -(-len(conversations) // TOGETHER))
        number = min(pages, max(1, _integer(request.query_params.get("page", "")) or 1))
        shown = conversations[TOGETHER * (number - 1) : TOGETHER * number]
        response = PAGES.page(
            "chat", request, title=self.title, session=session, sampling=self._last, conversations=shown,
            number=number, pages=pages, refresh=REFRESH[not session.pending], sides=partial(answers.sides, session),
            difference=answers.difference, choices=self._choices(), most=MOST_ANSWERS, longest=LONGEST_ANSWER,
            temperatures=_TEMPERATURES, seeds=_HIGHEST_SEED, command=self.command,
        )  # fmt: skip
        response.headers["etag"] = tag
        return response

    def _choices(self) -> list[tuple[int, str]]:
        """The evaluation's prompts in a few words."""
        shown = (" ".join(each["shown"].split()) for each in self.session.about.get("prompts", []))
        return [(i, t if len(t) <= _SHORTENED else f"{t[:_SHORTENED]}…") for i, t in enumerate(shown)]

    async def ask(self, request: Request) -> Response:
        """Put a prompt into the queue."""
        async with request.form(max_files=0, max_fields=20) as fields:
            form = {key: value for key, value in fields.items() if isinstance(value, str)}
        sampling = sampling_of(form)
        message, prompt = self._message(form)
        after = _integer(form.get("after", ""))
        continued = tuple((_integer(form.get(name, "1")) or 0) - 1 for name in ("first", "second"))
        turn = self.session.ask(message, sampling, prompt, after, (continued[0], continued[1]))
        self._last = sampling
        return RedirectResponse(f"/#turn-{turn.number}", 303)

    def _message(self, form: Mapping[str, str]) -> tuple[str, Prompt | None]:
        """What is asked, and the prompt of the evaluation that it stands for."""
        typed, picked = form.get("prompt", "").replace("\r\n", "\n"), form.get("picked", "")
        if typed.strip() and picked:
            raise HTTPException(400, "Type a prompt or pick one of the evaluation, not both.")
        if typed.strip():
            return typed, None
        if not picked:
            raise HTTPException(400, "The prompt is empty. Type one, or pick one of the evaluation.")
        prompts, place = self.session.about.get("prompts", []), _integer(picked)
        if place is None or place >= len(prompts):
            raise HTTPException(400, "There is no such prompt in the evaluation. Pick one of the list.")
        return prompts[place]["shown"], prompts[place]["prompt"]

    def start(self, request: Request) -> Response:
        """Start the models again."""
        self.worker.start()
        return RedirectResponse("/", 303)

    def export(self, request: Request) -> Response:
        """One line of JSON an answer."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.session.rows()]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.title).strip("-.") or "run"
        headers = {"content-disposition": f'attachment; filename="chat-{name}.jsonl"'}
        body = "".join(lines).encode("utf-8", "replace")
        return Response(body, media_type="application/jsonl", headers=headers)

    def problem(self, request: Request, error: Exception) -> Response:
        """What is wrong, in one line."""
        status, words = (error.status_code, error.detail) if isinstance(error, HTTPException) else (409, str(error))
        return PAGES.page("problem", request, status, title=self.title, problem=words, back="/")


def sampling_of(form: Mapping[str, str]) -> Sampling:
    """The settings of a form.

    Raises:
        HTTPException: one is missing or outside its range.
    """
    low, high = _TEMPERATURES
    try:
        temperature = float(form.get("temperature", "").replace(",", "."))
    except ValueError:
        temperature = 0.0
    if not low <= temperature <= high:  # also where it is NaN
        raise HTTPException(400, f"The temperature must be a number from {low} to {high:g}.")
    return Sampling(
        temperature,
        _within(form, "seed", "The seed", 0, _HIGHEST_SEED),
        _within(form, "max_new_tokens", "The greatest length", 1, LONGEST_ANSWER),
        _within(form, "answers", "The number of answers", 1, MOST_ANSWERS),
    )


def _within(form: Mapping[str, str], name: str, title: str, low: int, high: int) -> int:
    number = _integer(form.get(name, ""))
    if number is None or not low <= number <= high:
        raise HTTPException(400, f"{title} must be a whole number from {low} to {high}.")
    return number


def _integer(word: str) -> int | None:
    word = word.strip()
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 12 else None
