"""People for tests and experiments: they answer in the web pages, as anybody does, and their biases are known.

    python -m plaudit.feedback.simulated http://127.0.0.1:8765 --code KQ7M-3XTP --people 10 --votes 30 --length 0.5

`people` says how they choose.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import numpy as np
from scipy.special import logit

from plaudit import rng
from plaudit.errors import FeedbackError, PlauditError
from plaudit.feedback.people import Person, Value, choose, rated, scored, words

_PATIENCE = 60.0  # seconds that a person waits for pairs to be made
_PAUSE = 0.5  # seconds between two looks at a page that has no pair yet


@dataclass(frozen=True)
class Page:
    """What a person reads of a page, and the form in which to answer."""

    prompt: str
    left: str
    right: str
    fields: Mapping[str, str]  # of the form, as the page has filled them in
    answers: frozenset[str]
    practice: bool


class _Reader(HTMLParser):
    """The prompt, both responses and the form of a page for comparing."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.fields: dict[str, str] = {}
        self.answers: set[str] = set()
        self.counts = False
        self._section, self._depth, self._in_form, self._empty = "", 0, False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._section = named.get("id") or named.get("class", "").partition(" ")[0]
        elif tag == "form":
            self._in_form = named.get("action") == "/vote"
        elif tag == "input" and self._in_form and named.get("type") == "hidden":
            self.fields[named["name"]] = named.get("value", "")
        elif tag == "button" and named.get("name") == "answer":
            self.answers.add(named.get("value", ""))
        elif named.get("id") == "progress":
            self.counts = True
        elif named.get("class") == "nothing":
            self._empty = True  # words of the page about a text that is empty
        if tag == "div":
            if self._depth or (self._section and "text" in named.get("class", "").split()):
                self._depth += 1
            if self._depth == 1:
                before = self.texts.get(self._section)
                self.texts[self._section] = "" if before is None else before + "\n\n"

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._depth:
            self._depth -= 1
            self._empty = False
        elif tag == "section":
            self._section = ""
        elif tag == "form":
            self._in_form = False

    def handle_data(self, data: str) -> None:
        if self._depth and not self._empty:
            self.texts[self._section] += data


def read(html: str) -> Page | None:
    """What a page asks; None if it asks nothing."""
    reader = _Reader()
    reader.feed(html)
    if "assignment" not in reader.fields or not {"left", "right"} <= reader.texts.keys():
        return None
    prompt, left, right = (reader.texts.get(name, "") for name in ("prompt", "left", "right"))
    return Page(prompt, left, right, reader.fields, frozenset(reader.answers), not reader.counts)


class Browser:
    """As much of a browser as the pages need: cookies, redirects, forms. No JavaScript."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.address = f"{parts.scheme}://{parts.netloc}"
        self._opener = build_opener(HTTPCookieProcessor(), ProxyHandler({}))

    def open(self, path: str, form: Mapping[str, str] | None = None) -> tuple[str, str]:
        """The path at which the redirects ended, and the page.

        Raises:
            FeedbackError: the server cannot be reached, or refuses.
        """
        data = None if form is None else urlencode(form).encode()
        request = Request(urljoin(self.address, path), data, {"Origin": self.address} if form is not None else {})
        try:
            with self._opener.open(request, timeout=60) as response:
                return urlsplit(response.url).path, response.read().decode("utf-8")
        except HTTPError as error:
            text = re.sub(
                r"<[^>]*>", " ", error.read().decode("utf-8", "replace").partition("<main")[2].partition(">")[2]
            )
            raise FeedbackError(f"{self.address}{path}: {error.code}: {words(text)[:200] or error.reason}") from None
        except (URLError, OSError) as error:
            raise FeedbackError(f"{self.address}: cannot be reached: {getattr(error, 'reason', error)}") from None


@dataclass
class Session:
    """One person at the pages."""

    person: Person
    browser: Browser
    random: np.random.Generator
    answers: Counter[str] = field(default_factory=Counter)

    def join(self, code: str, link: str = "/") -> None:
        """Sign in: with the join code, or without one by the link."""
        if code:
            self.browser.open("/join", {"name": self.person.name, "code": code, "simulated": "1"})
        else:
            self.browser.open(link)

    def answer(self, votes: int, waiting: float = 0.0) -> None:
        """Answer until this many count, or nothing is left; `waiting` times the seconds that a vote takes pass."""
        until = time.monotonic() + _PATIENCE
        path, html = self.browser.open("/compare")
        while self.answers.total() < votes and path != "/done":
            page = read(html)
            if page is None:
                if time.monotonic() > until:
                    raise FeedbackError(f"{self.browser.address}{path}: no pair to compare for {_PATIENCE:.0f} seconds")
                time.sleep(_PAUSE)
                path, html = self.browser.open("/compare")
                continue
            answer = choose(self.person, page.prompt, page.left, page.right, self.random)
            if answer not in page.answers:
                raise FeedbackError(f"{self.browser.address}{path}: the page has no button {answer!r}")
            seconds = self.person.seconds * self.random.lognormal(0, 0.4)
            time.sleep(waiting * seconds)
            spent = {"active_ms": f"{1000 * seconds:.0f}", "wall_ms": f"{1000 * seconds:.0f}"}
            path, html = self.browser.open("/vote", {**page.fields, **spent, "answer": answer})
            until = time.monotonic() + _PATIENCE
            if not page.practice:
                self.answers[answer.partition("-")[0]] += 1


def answer_all(
    link: str, people: Sequence[Person], votes: int, code: str = "", seed: int = 0, waiting: float = 0.0
) -> list[Counter[str]]:
    """Let all people answer at once; how often each gave which answer.

    Args:
        link: of the pages. Without a code it must be the link that the server printed, and one person can use it.
        people: who answers.
        votes: that each gives, without practice. A pair that comes again is one more: its page does not say so.
        code: the join code.
        seed: of their choices.
        waiting: how much of the time that a vote takes really passes, from 0 to 1.
    """
    if not code and len(people) > 1:
        raise FeedbackError(f"{len(people)} people need a join code: pass --code, or --people 1")

    def run(place: int) -> Counter[str]:
        random = rng.generator(seed, "simulated people", place, "answers")
        session = Session(people[place], Browser(link), random)
        session.join(code, link)
        session.answer(votes, waiting)
        return session.answers

    with ThreadPoolExecutor(max(1, len(people))) as pool:
        return list(pool.map(run, range(len(people))))


def _value_of(args: argparse.Namespace) -> Callable[[int], Value]:
    """What responses are worth to the person at each place, by the options of the command."""
    if args.ratings:
        ratings = _ratings(args.ratings)
        return lambda place: rated(ratings, place, args.weight)
    if args.score:
        shared = scored(_function(args.score), args.weight)
        return lambda place: shared
    return lambda place: Person("").value


def _ratings(name: str) -> dict[str, Sequence[float]]:
    if name == "human-ratings":
        from plaudit.data.human_ratings import human_ratings

        return {text.text: text.ratings for text in human_ratings()}
    try:
        found = json.loads(Path(name).read_text(encoding="utf-8"))
        return {str(text): [float(number) for number in numbers] for text, numbers in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FeedbackError(f"{name}: must be JSON with a list of ratings for each text: {error}") from None


def _function(name: str) -> Callable[[list[str], list[str]], Sequence[float]]:
    if name == "judge":
        from plaudit.evaluation.judge import imdb_judge

        judge = imdb_judge()
        return lambda prompts, responses: logit(judge.positive(responses).clip(1e-6, 1 - 1e-6)).tolist()
    from plaudit.rewards.sources import load_function

    path, _, function = name.rpartition(":")
    return load_function(Path(path), function)


def main(arguments: Sequence[str] | None = None) -> None:
    """Let simulated people answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("link", help="where the pages are; with --people 1, the link that the server printed will do")
    parser.add_argument("--code", default="", help="the join code")
    parser.add_argument("--people", type=int, default=10, help="how many people answer at once (default: %(default)s)")
    about = "answers of each: pairs that come again count, practice does not (default: %(default)s)"
    parser.add_argument("--votes", type=int, default=30, help=about)
    parser.add_argument("--ratings", help="JSON file with a list of ratings for each text, or: human-ratings")
    parser.add_argument(
        "--score", metavar="FILE.py:NAME", help="reward function; or: judge, the log odds of the film judge"
    )
    parser.add_argument("--weight", type=float, default=2.0, help="log odds a point of either (default: %(default)s)")
    kinds = {
        "position": "log odds for the left response", "length": "log odds for a response twice as long",
        "positivity": "log odds for one positive word more", "ties": "probability of a tie of equal responses",
        "lapses": "probability of a random answer", "skips": "probability of skipping a pair",
        "seconds": "that a vote takes, as it is recorded",
    }  # fmt: skip
    for name, about in kinds.items():
        parser.add_argument(
            f"--{name}", type=float, default=getattr(Person(""), name), help=f"{about} (default: %(default)s)"
        )
    parser.add_argument("--waiting", type=float, default=0.0, help="share of --seconds that really passes (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of names and choices (default: 0)")
    args = parser.parse_args(arguments)
    if any(not 0 <= getattr(args, name) < 1 for name in ("ties", "lapses", "skips")):
        parser.error("--ties, --lapses and --skips are probabilities: from 0 to below 1")
    try:
        value = _value_of(args)
        alike = Person("", **{name: getattr(args, name) for name in kinds})
        people = [replace(alike, name=f"simulated {args.seed}-{i + 1}", value=value(i)) for i in range(args.people)]
        start = time.monotonic()
        answers = sum(answer_all(args.link, people, args.votes, args.code, args.seed, args.waiting), Counter())
    except PlauditError as error:
        sys.exit(f"error: {error}")
    counts = ", ".join(f"{n} {answer.replace('_', ' ')}" for answer, n in answers.most_common())
    print(f"{args.people} people: {answers.total()} answers in {time.monotonic() - start:.1f} s: {counts or 'none'}")


if __name__ == "__main__":
    main()
