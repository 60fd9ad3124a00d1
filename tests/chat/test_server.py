"""The server as a process: it imports nothing heavy, writes nothing into the run, and ends with its models."""

import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from chat.talk import FAKE, FORM, wait_for

from plaudit.chat.models import chosen, defaults, settings_of
from plaudit.chat.server import chat
from plaudit.errors import RunError

SCRIPT = f"""
import sys
from pathlib import Path
from plaudit.chat import server
server.PROCESS = ({", ".join(map(repr, FAKE))}, "")
server.chat(Path(sys.argv[1]), port=int(sys.argv[2]))
heavy = ("torch", "transformers", "datasets", "scipy", "matplotlib")
print("ended", [name for name in heavy if name in sys.modules])
"""


@pytest.fixture
def finished(cpu_run):
    """A run directory in which SFT and PPO look finished; no model is opened here."""
    for stage in ("sft", "ppo"):
        (cpu_run.path / stage).mkdir()
        (cpu_run.path / stage / "summary.json").write_text("{}")
    return cpu_run.path


def files(run):
    return sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))


def served(run, port):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run), str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip


def opened(link):
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(link, timeout=60).close()
    return opener


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_models_has_imported_nothing_heavy_and_leaves_the_run_alone(finished, stop):
    before = files(finished)
    process = served(finished, 0)
    try:
        link = re.search(r"Open (\S+)", process.stdout.readline())[1]
        address = link.partition("/?")[0]
        browser = opened(link)
        data = "&".join(f"{key}={value}" for key, value in FORM.items()).encode()
        browser.open(urllib.request.Request(f"{address}/ask", data, {"Origin": address}), timeout=60).close()

        def page():
            with browser.open(address, timeout=60) as response:
                return response.read().decode()

        wait_for(lambda: "PPO scores 1 higher than SFT" in page())
        with browser.open(f"{address}/export.jsonl", timeout=60) as response:
            assert len(response.read().splitlines()) == 2
        (models,) = children(process)
        process.send_signal(stop)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    wait_for(lambda: not is_running(models))
    if stop != signal.SIGKILL:
        assert rest.splitlines()[-1] == "ended []"
        assert "Traceback" not in rest
        assert process.returncode == 0
    assert files(finished) == before


def test_the_page_is_there_before_the_models(finished):
    began = time.monotonic()
    process = served(finished, 0)
    try:
        link = re.search(r"Open (\S+)", process.stdout.readline())[1]
        with opened(link).open(link.partition("?")[0], timeout=60) as response:
            assert "Before and after" in response.read().decode()
        assert time.monotonic() - began < 20  # a second on an idle machine
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        chat(tmp_path)


def test_the_models_by_default_are_sft_and_the_policy(finished, tmp_path):
    assert chosen(finished) == ("sft", "ppo")
    assert chosen(finished, ("model", "policy")) == ("model", "ppo")
    with pytest.raises(RunError, match="no finished best_of_n here; run: plaudit best-of-n"):
        chosen(finished, ("sft", "best-of-n"))
    assert chosen(finished, ("sft", "some/model")) == ("sft", "some/model")
    run = tmp_path / "other"
    run.mkdir()
    (run / "config.toml").write_text((finished / "config.toml").read_text())
    with pytest.raises(RunError, match=r"no finished model here .*plaudit sft"):
        chosen(run)
    for name, advice in (("ppo", "run: plaudit ppo"), ("policy", "run: plaudit ppo"), ("reward_model", "reward-model")):
        with pytest.raises(RunError, match=advice):
            chosen(run, ("model", name))
    (finished / "reward_model").mkdir()
    (finished / "reward_model" / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="writes nothing"):
        chosen(finished, ("sft", "reward_model"))
    (run / "sft").mkdir()
    (run / "sft" / "summary.json").write_text("{}")
    assert chosen(run) == ("model", "sft")


def test_the_settings_are_those_of_the_policy_that_answers(finished):
    found = defaults(finished, ("sft", "ppo"))
    assert (found.temperature, found.seed, found.max_new_tokens, found.answers) == (0.78, 1, 16, 1)
    assert settings_of(finished, ("sft", "grpo")) == "grpo"
    assert settings_of(finished, ("model", "sft")) == "ppo"
