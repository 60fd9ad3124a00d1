"""The pages of small labelling projects, as a browser without JavaScript sees them."""

import re
from contextlib import contextmanager
from html import unescape

from feedback.projects import project
from starlette.testclient import TestClient

from plaudit.feedback.app import make_app
from plaudit.feedback.assignment import Plan
from plaudit.feedback.visits import Site
from plaudit.web.security import guard

ADDRESS = "http://127.0.0.1:8765"
TOKEN, CODE = "the-token-of-the-owner", "KQ7M-3XTP"
OLD, NEW = "old-model", "new-model"  # the generators of `project`


def site(**values):
    plan = Plan(**({"practice": 0, "repeat_share": 0.0} | values.pop("plan", {})))
    return Site("A project", plan, token=TOKEN, code=CODE, address=ADDRESS, **values)


class Clock:
    """Seconds since 1970, which pass only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextmanager
def pages(folder, pairs=4, *, people=(), store=None, clock=None, more=None, **values):
    """The app of a project and its store. The app is running: the model learns."""
    store = store or project(folder, pairs, people, values.pop("purpose", "train"), **(more or {}))
    app = guard(make_app(store, site(**values), clock or Clock()))
    with TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS}) as client:
        yield client, store
    store.close()


def another(client):
    """A browser of somebody else, at the same server."""
    return TestClient(client.app, base_url=ADDRESS, headers={"Origin": ADDRESS})


def owner(client):
    client.get("/", params={"token": TOKEN})
    return client


def joined(client, name):
    """The browser of somebody who has joined."""
    browser = another(client)
    assert browser.post("/join", data={"name": name, "code": CODE}).status_code == 200
    return browser


def form(html, action="/vote"):
    """The hidden fields of a form."""
    found = re.search(rf'<form method="post" action="{action}"[^>]*>(.*?)</form>', html, re.DOTALL)
    inputs = re.findall(r'<input type="hidden" name="(\w+)"(?: value="([^"]*)")?>', found.group(1))
    return {name: unescape(value) for name, value in inputs if value}


def vote(client, answer="left", **more):
    """Answer the next pair; the fields of the form, or None when nothing is left."""
    page = client.get("/compare")
    if page.url.path == "/done":
        return None
    fields = form(page.text)
    client.post("/vote", data={**fields, "answer": answer, **more}).raise_for_status()
    return fields
