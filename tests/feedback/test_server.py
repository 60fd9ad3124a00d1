"""The server as a process: its link, its start, its end, its load, and votes that outlive it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlencode

import numpy as np
import pytest
from feedback.projects import project
from feedback.sites import CODE, TOKEN, form

from plaudit.errors import FeedbackError
from plaudit.feedback import server
from plaudit.feedback.store import Store

SERVE = f"""
import sys
from plaudit.feedback.assignment import Plan
from plaudit.feedback.server import serve
from plaudit.feedback.visits import Site
plan = Plan(overlap=int(sys.argv[3]), practice=0, repeat_share=0.0)
serve(sys.argv[1], Site("A project", plan, token={TOKEN!r}, code={CODE!r}), port=int(sys.argv[2]))
print("ended", [name for name in ("torch", "transformers", "datasets", "scipy", "matplotlib") if name in sys.modules])
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Served:
    """A server in a process of its own."""

    def __init__(self, folder, port=None, overlap=1):
        self.port = port or free_port()
        command = [sys.executable, "-c", SERVE, str(folder), str(self.port), str(overlap)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        self.link = self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class Browser:
    """One person with one connection: much faster than a test client, so that the server is what is measured."""

    def __init__(self, port):
        self.connection, self.cookie = HTTPConnection("127.0.0.1", port, timeout=120), ""
        self.origin = f"http://127.0.0.1:{port}"

    def open(self, path, data=None):
        headers = {"Cookie": self.cookie, "Origin": self.origin, "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self.connection.request("GET" if data is None else "POST", path, data and urlencode(data), headers)
        response = self.connection.getresponse()
        body = response.read().decode()
        if cookie := response.headers.get("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return response.status, body

    def join(self, name):
        assert self.open("/join", {"name": name, "code": CODE})[0] == 303
        return self


def test_one_link_is_printed_and_it_opens_the_pages(tmp_path):
    with Served(tmp_path) as served:
        assert served.link == f"Open http://127.0.0.1:{served.port}/?token={TOKEN}\n"
        browser = Browser(served.port)
        assert browser.open(f"/?token={TOKEN}")[0] == 303
        assert "Which response is better?" in browser.open("/")[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_and_has_imported_nothing_heavy(tmp_path, stop):
    project(tmp_path, 2).close()
    with Served(tmp_path) as served:
        browser = Browser(served.port)
        browser.open(f"/?token={TOKEN}")
        for path in ("/", "/compare", "/history", "/done", "/results"):
            assert browser.open(path)[0] in (200, 303)
        served.process.send_signal(stop)
        rest = served.process.communicate(timeout=60)[0]
        assert rest.splitlines()[1:] == ["ended []"]  # after the line about the join code
        assert served.process.returncode == 0


def test_a_port_in_use_is_an_error_of_one_line_with_the_fix():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FeedbackError, match=f"127.0.0.1:{port}: .*choose another with --port"):
            server._listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no such host.invalid", 0), ("203.0.113.7", 0)])
def test_an_impossible_address_is_an_error_of_one_line(host, port):
    with pytest.raises(FeedbackError, match="choose another with --port or --host"):
        server._listen(host, port)


def test_without_a_port_the_next_free_one_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(server, "PORT", taken.getsockname()[1])
        with server._listen("127.0.0.1", None) as listening:
            assert listening.getsockname()[1] > server.PORT


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("192.168.1.5", "http://192.168.1.5:80")],
)
def test_the_link_has_the_address(host, expected):
    assert server._address(host, 80) == expected
    assert server._is_loopback(host) == (host != "192.168.1.5")


def test_a_server_for_all_addresses_prints_one_that_others_can_reach():
    assert re.fullmatch(r"http://[\w.:-]+:80", server._address("0.0.0.0", 80))
    assert "0.0.0.0" not in server._address("0.0.0.0", 80)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_every_acknowledged_vote_survives_kill_9(tmp_path):
    project(tmp_path, 60).close()
    acknowledged, stopped = set(), threading.Event()

    def work(port):
        browser = Browser(port)
        browser.open(f"/?token={TOKEN}")
        try:
            while not stopped.is_set():
                fields = form(browser.open("/compare")[1])
                if browser.open("/vote", {**fields, "answer": "left"})[0] == 200:
                    acknowledged.add(fields["uuid"])
        except OSError:
            pass

    for _ in range(2):
        with Served(tmp_path) as served:
            before = len(acknowledged)
            thread = threading.Thread(target=work, args=(served.port,))
            thread.start()
            until = time.monotonic() + 60
            while len(acknowledged) < before + 8 and time.monotonic() < until:
                time.sleep(0.005)
            os.kill(served.process.pid, signal.SIGKILL)
            thread.join()
        store = Store.open(tmp_path)
        with store.database.reading() as connection:
            there = {row[0] for row in connection.execute("SELECT uuid FROM event")}
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        store.close()
        assert acknowledged <= there
    assert len(acknowledged) >= 16


def load(folder, people, votes, pairs):
    """`people` at once, each with `votes`; the seconds that each vote took, and the uuids that were acknowledged."""
    project(folder, pairs).close()
    seconds, uuids = [], []

    def work(port, number):
        browser = Browser(port).join(f"person {number}")
        for _ in range(votes):
            fields = form(browser.open("/compare")[1])
            start = time.perf_counter()
            assert browser.open("/vote", {**fields, "answer": ("left", "right")[number % 2]})[0] == 200
            seconds.append(time.perf_counter() - start)
            uuids.append(fields["uuid"])

    with Served(folder, overlap=-(-people * votes // pairs)) as served:
        threads = [threading.Thread(target=work, args=(served.port, number)) for number in range(people)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store = Store.open(folder)
    labels = store.labels()
    store.close()
    return np.array(seconds), uuids, labels


def test_many_people_at_once_lose_no_vote_and_double_none(tmp_path):
    seconds, uuids, labels = load(tmp_path, people=8, votes=6, pairs=12)
    assert len(uuids) == len(set(uuids)) == len(labels) == 48
    assert len({(label.annotator, label.item) for label in labels}) == 48
    assert np.median(seconds) < 5  # the figure for an idle machine is in docs/feedback.md
