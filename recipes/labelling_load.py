"""Many people vote at once: how long a vote takes, and whether any is lost or doubled.

    python recipes/labelling_load.py --people 50 --votes 200
    python recipes/labelling_load.py --people 5 --votes 400 --width 256 --pause 0.1 --learning thread

The server runs in a process of its own, and people in another one: each has a connection, loads a pair, votes, and
loads the next, without a pause. Nothing is kept. With a width, responses have activations, so that the live head
learns: in a thread of the server as always, in a process of its own, or not at all.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from plaudit.feedback.store import Store

TOKEN, CODE = "the-token-of-the-owner", "KQ7M-3XTP"
_SERVE = f"""
import sys
from plaudit.feedback.assignment import Plan
from plaudit.feedback.server import serve
from plaudit.feedback.visits import Site
folder, port, overlap, learning = sys.argv[1:]
if learning != "thread":
    from plaudit.feedback.learning import Learning
    Learning.start = lambda self: None
plan = Plan(overlap=int(overlap), practice=0, repeat_share=0.0)
serve(folder, Site("Load", plan, token={TOKEN!r}, code={CODE!r}), port=int(port))
"""

_LEARN = """
import sys, time
from plaudit.feedback.learning import Learning
from plaudit.feedback.store import Store
store = Store.open(sys.argv[1])
learning, votes = Learning(store), -1
while True:
    with store.database.reading() as connection:
        now = connection.execute("SELECT count(*) FROM event").fetchone()[0]
    start = time.perf_counter()
    if now != votes:
        learning.learn()
        votes = now
    time.sleep(max(0.05, 3 * (time.perf_counter() - start)))  # as the thread of the server does
"""


class Served:
    """A server of a project in a process of its own, which runs `afterwards` in the end."""

    def __init__(
        self, folder: Path, port: int, overlap: int = 1, afterwards: str = "", learning: str = "thread"
    ) -> None:
        command = [sys.executable, "-c", _SERVE + afterwards, str(folder), str(port), str(overlap), learning]
        self.port = port
        self.learner = None
        if learning == "process":
            self.learner = subprocess.Popen([sys.executable, "-c", _LEARN, str(folder)])
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Served:
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        for process in filter(None, (self.process, self.learner)):
            process.kill()
            process.communicate()


class Browser:
    """One person with one connection: little work, so that the server is what is measured."""

    def __init__(self, port: int) -> None:
        self.connection, self.cookie = HTTPConnection("127.0.0.1", port, timeout=300), ""
        self.origin = f"http://127.0.0.1:{port}"

    def open(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and text of a page, or of what a form leads to."""
        headers = {"Cookie": self.cookie, "Origin": self.origin, "Accept": "application/json"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self.connection.request("GET" if form is None else "POST", path, form and urlencode(form), headers)
        response = self.connection.getresponse()
        text = response.read().decode()
        if cookie := response.headers.get("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return response.status, text

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def join(self, name: str) -> Browser:
        """Sign in with the join code."""
        status, _ = self.open("/join", {"name": name, "code": CODE})
        assert status == 303, status
        return self

    def pair(self) -> dict[str, str]:
        """The hidden fields of the form of the next pair."""
        form = self.open("/compare")[1].partition('id="vote"')[2].partition("</form>")[0]
        return {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)">', form)}

    def vote(self, fields: dict[str, str], answer: str) -> int:
        """Answer; the status."""
        return self.open("/vote", {**fields, "answer": answer})[0]


@dataclass(frozen=True)
class Load:
    """What happened."""

    votes: np.ndarray  # seconds of each vote, from sending it to its acknowledgement
    pages: np.ndarray  # seconds of each pair
    acknowledged: list[str]  # uuids
    stored: list[str]
    twice: int  # pairs that somebody voted on twice
    seconds: float  # of all together


def load(
    folder: Path, port: int, people: int, votes: int, pairs: int, width: int = 0, pause: float = 0.0,
    learning: str = "thread",
) -> Load:  # fmt: skip
    """`people` vote at once, `votes` times each, on `pairs` pairs.

    Args:
        width: of the activations of a response; 0: none, and the head does not learn.
        pause: seconds before each vote.
        learning: where the head learns: thread, process or none.
    """
    store, random = Store.open(folder), np.random.default_rng(0)
    with store.transaction():
        for i in range(pairs):
            features = [random.standard_normal(width) if width else None for _ in range(2)]
            texts = [f"{word} response {i}" for word in ("one", "another")]
            ids = [store.add_completion(f"prompt {i}", t, features=x) for t, x in zip(texts, features, strict=True)]
            store.add_item(*ids)
    pages: list[float] = []
    posts: list[float] = []
    acknowledged: list[str] = []

    def work(number: int) -> None:
        browser = Browser(port).join(f"person {number}")
        for turn in range(votes):
            start = time.perf_counter()
            fields = browser.pair()
            read = time.perf_counter()
            time.sleep(pause)
            loaded = time.perf_counter()
            status = browser.vote(fields, "left" if (number + turn) % 3 else "right")
            assert status == 200, status
            posts.append(time.perf_counter() - loaded)
            pages.append(read - start)
            acknowledged.append(fields["uuid"])
        browser.close()

    with Served(folder, port, people, learning=learning):  # nobody waits for a pair that somebody else holds
        threads = [threading.Thread(target=work, args=(number,)) for number in range(people)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
    with store.database.reading() as connection:
        stored = [row[0] for row in connection.execute("SELECT uuid FROM event")]
    again = Counter((label.annotator, label.item) for label in store.labels())
    store.close()
    twice = sum(count > 1 for count in again.values())
    return Load(np.array(posts), np.array(pages), acknowledged, stored, twice, seconds)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--votes", type=int, default=200, help="of each person")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--width", type=int, default=0, help="of the activations of a response; 0: none")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each vote")
    parser.add_argument("--learning", choices=["thread", "process", "none"], default="thread")
    parser.add_argument("--port", type=int, default=8799)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = args.people, args.votes, args.pairs, args.width
        found = load(Path(folder), args.port, *sizes, args.pause, args.learning)
    quantiles = {f"p{q}": q / 100 for q in (50, 90, 99)}
    figures = {
        "people": args.people,
        "acknowledged": len(found.acknowledged),
        "lost": len(set(found.acknowledged) - set(found.stored)),
        "doubled": len(found.stored) - len(set(found.acknowledged)) + found.twice,
        "votes_per_second": round(len(found.acknowledged) / found.seconds, 1),
        "vote_ms": {name: round(1000 * float(np.quantile(found.votes, q)), 1) for name, q in quantiles.items()},
        "page_ms": {name: round(1000 * float(np.quantile(found.pages, q)), 1) for name, q in quantiles.items()},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
