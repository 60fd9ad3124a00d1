"""The server as a process: its link, its start, its end, and votes that outlive it.

How long a vote takes is measured by recipes/labelling_load.py on an idle machine.
"""

import os
import re
import signal
import socket
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPException

import pytest
from feedback.projects import project

from plaudit.errors import FeedbackError
from plaudit.feedback.store import Store
from plaudit.web import server
from recipes.labelling_load import TOKEN, Browser, Served, load


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_one_link_is_printed_and_it_opens_the_pages(tmp_path):
    with Served(tmp_path, free_port()) as served:
        assert served.link == f"Open http://127.0.0.1:{served.port}/?token={TOKEN}\n"
        with closing(Browser(served.port)) as browser:
            assert browser.open(f"/?token={TOKEN}")[0] == 303
            assert "Which response is better?" in browser.open("/")[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_and_has_imported_nothing_heavy(tmp_path, stop):
    project(tmp_path, 2).close()
    heavy = ("torch", "transformers", "datasets", "scipy", "matplotlib")
    ended = f"print('ended', [name for name in {heavy} if name in sys.modules])"
    with Served(tmp_path, free_port(), afterwards=ended) as served:
        with closing(Browser(served.port)) as browser:
            browser.open(f"/?token={TOKEN}")
            for path in ("/", "/compare", "/history", "/done", "/results"):
                assert browser.open(path)[0] in (200, 303)
        served.process.send_signal(stop)
        rest = served.process.communicate(timeout=60)[0]
        assert rest.splitlines()[-1] == "ended []"
        assert "Traceback" not in rest
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
    acknowledged = set()

    def work(port):
        with closing(Browser(port)) as browser, suppress(OSError, HTTPException):
            browser.open(f"/?token={TOKEN}")
            while True:
                fields = browser.pair()
                if browser.vote(fields, "left") == 200:
                    acknowledged.add(fields["uuid"])

    for _ in range(2):
        with Served(tmp_path, free_port()) as served:
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


def test_many_people_at_once_lose_no_vote_and_double_none(tmp_path):
    found = load(tmp_path, free_port(), people=8, votes=6, pairs=12)
    assert len(found.acknowledged) == len(set(found.acknowledged)) == 48
    assert sorted(found.stored) == sorted(found.acknowledged)
    assert found.twice == 0
