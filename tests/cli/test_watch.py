"""`plaudit watch` as a person starts it: a process that prints one link, whose pages can be read."""

import re
import signal
import subprocess
import sys
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from monitor.runs import metrics, run, write

from recipes.labelling_load import Browser

# plaudit's own command, and what it has imported when it ends.
WATCH = """
import sys
from plaudit.cli import main
code = main(["watch", *sys.argv[1:], "--no-browser"])
heavy = ("torch", "transformers", "datasets", "scipy", "matplotlib", "peft")
print("ended", code, [name for name in heavy if name in sys.modules])
"""


@pytest.fixture
def started():
    processes = []

    def start(*words):
        command = [sys.executable, "-c", WATCH, *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def opened(process):
    """A browser that has followed the link which the process prints."""
    line = process.stdout.readline()
    found = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+)(/\?token=[\w-]+)\n", line)
    assert found, line
    browser = Browser(urlsplit(found[1]).port)
    assert browser.open("/")[0] in (401, 403)  # without the token
    assert browser.open(found[2])[0] == 303
    return browser


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_link_opens_the_pages_and_the_process_ends_quietly_without_anything_heavy(tmp_path, started, stop):
    folder = run(tmp_path / "run")
    process = started(folder, run(tmp_path / "other", steps=4))
    with closing(opened(process)) as browser:
        for path in ("/", "/curves", "/tokens", "/rollouts"):
            status, page = browser.open(path)
            assert status == 200
            assert "<h1>" in page
        assert "step 10 of 20" in browser.open("/")[1]
        write(folder / "ppo" / "metrics.jsonl", [metrics(11)])
        assert "step 11 of 20" in browser.open("/")[1]
        process.send_signal(stop)
    rest = process.communicate(timeout=60)[0]
    assert rest.splitlines() == ["ended 0 []"]


def test_a_run_that_does_not_exist_yet_can_be_watched(tmp_path, started):
    with closing(opened(started(tmp_path / "run"))) as browser:
        assert "holds no run yet" in browser.open("/")[1]
        run(tmp_path / "run")
        assert "step 10 of 20" in browser.open("/")[1]


def test_what_is_no_run_directory_is_refused_in_one_line(tmp_path, started):
    (tmp_path / "file").touch()
    said = started(tmp_path / "file").communicate(timeout=60)[0].splitlines()
    assert said == [
        f"plaudit: error: {tmp_path / 'file'}: is a file; plaudit watch takes a run directory",
        "ended 1 []",
    ]
