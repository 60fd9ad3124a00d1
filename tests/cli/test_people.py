"""The commands with which people compare, each as a process of its own, and what is learned from the votes."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from urllib.parse import urlencode

import pytest

from plaudit.cli import main
from plaudit.cli.beside import beside
from plaudit.config import build
from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan
from plaudit.feedback.people import Person
from plaudit.feedback.simulated import answer_all
from plaudit.feedback.store import Store
from plaudit.pipeline import steps
from plaudit.training.run import Run

SMALL = {
    "device": "cpu", "dtype": "float32", "sft.epochs": 1, "reward_model.epochs": 2, "ppo.iterations": 1,
    "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 8,
}  # fmt: skip
LONGEST = 120  # seconds, on a busy machine


@pytest.fixture
def run(tmp_path, tiny_config):
    config = build({"model": tiny_config.model, "data": tiny_config.data.name, **SMALL})
    made = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft",))
    for _ in steps(made, ("sft",)):
        pass
    return made


def served(*words):
    """A command that serves pages, and the link that it printed."""
    command = [sys.executable, "-m", "plaudit", *map(str, words), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    found = re.search(r"Open (http\S+)", line)
    assert found, line + process.stderr.read()
    return process, found[1]


def ended(process):
    """The exit code after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONGEST)
    return process.returncode


def read(*links):
    """The text of pages that one browser opens in this order."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    texts = []
    for link in links:
        with opener.open(link, timeout=LONGEST) as page:
            texts.append(page.read().decode())
    return "".join(texts)


@pytest.fixture
def open_store():
    """A function that opens a store, which is closed after the test."""
    opened = []

    def opening(folder):
        opened.append(Store.open(folder))
        return opened[-1]

    yield opening
    for store in opened:
        store.close()


def wait_for(condition):
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


def test_pairs_are_made_beside_the_page_and_learned_from(run, open_store, capsys):
    process, link = served("label", run.path, "--number", 60)
    store = open_store(run.path / "feedback")
    try:
        assert "<html" in read(link)
        wait_for(lambda: (found := store.progress().get("pairs")) and found.done == 60)
    finally:
        assert ended(process) == 0
    items = store.items("train")
    assert len(items) > 30
    assert all(one.features is not None for one in store.completions({items[0].a, items[0].b}).values())

    assert main(["reward-model", str(run.path), "--comparisons"]) == 1
    assert "nobody has compared a pair yet; run: plaudit label" in capsys.readouterr().err
    person = store.add_annotator("ann", "simulated", "secret").id
    while (pair := assignment.next(store, person, Plan(practice=0))) is not None:
        side = "left" if len(pair.left) >= len(pair.right) else "right"
        store.record(uuid.uuid4().hex, pair.id, person, "choose", side)
    assert main(["reward-model", str(run.path), "--comparisons"]) == 0
    summary = Run.existing(run.path).summary("reward_model")
    assert summary["kind"] == "comparisons"
    assert summary["records"] > 20


def test_a_comparison_of_two_models_is_blind(run, open_store):
    process, link = served("compare", run.path, "--models", "sft", "model", "--number", 40)
    folder = run.path / "compare" / "sft-run-model"
    store = open_store(folder)
    try:
        wait_for(lambda: "pairs" in store.progress() and store.progress()["pairs"].done > 0)
        wait_for(lambda: store.progress()["pairs"].done == 40)
        pages = ("", "compare", "history", "done", "results", "health", "class", "join", "nothing")
        said = read(link, *(link.split("?")[0] + page for page in pages[:-1]))
    finally:
        assert ended(process) == 0
    assert {one.name for one in store.generators().values()} == {"run/sft", "run/model"}
    named = re.findall(r"<title>(.*?)</title>|<a class=\"brand\"[^>]*>(.*?)</a>|(?:href|action|src)=\"(.*?)\"", said)
    assert len(named) > 50
    assert not re.search(r"\b(run|sft)\b", " ".join("".join(found) for found in named))
    assert not re.search(r"run/(sft|model)|run-model", said)
    items = store.items("eval")
    texts = store.completions({item.a for item in items})
    first = [store.generators()[texts[item.a].generator].stage for item in items]
    assert 0.2 < first.count("sft") / len(first) < 0.8  # the balance of sides says nothing about the models


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nothing")]) == 1
    assert "no run here" in capsys.readouterr().err


def test_two_models_answer_beside_each_other(run):
    process, link = served("chat", run.path, "--models", "model", "sft")
    address = link.partition("/?")[0]
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        opener.open(link, timeout=LONGEST).close()
        form = {"prompt": "film", "temperature": "0.8", "seed": "1", "max_new_tokens": "8", "answers": "1"}
        request = urllib.request.Request(f"{address}/ask", urlencode(form).encode(), {"Origin": address})
        opener.open(request, timeout=LONGEST).close()

        def rows():
            with opener.open(f"{address}/export.jsonl", timeout=LONGEST) as found:
                return [json.loads(line) for line in found.read().splitlines()]

        wait_for(lambda: len(rows()) == 2)
        assert [row["model"] for row in rows()] == ["model", "sft"]
        with opener.open(address, timeout=LONGEST) as page:
            text = page.read().decode()
        assert "Base model" in text
        assert "No scores: no finished reward_model here; run: plaudit reward-model --out" in text
    finally:
        assert ended(process) == 0


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--models", "sft"), 2, "name two models, as in --models sft,ppo"),
        (("--models", "sft,"), 2, "name two models"),
        (("--models", "sft,ppo,grpo"), 2, "name two models"),
        (("--models", "sft", "ppo"), 1, "no finished ppo here; run: plaudit ppo --out"),
        (("--models", "model,ppo"), 1, "no finished ppo here; run: plaudit ppo --out"),
        (("--timeout", "0"), 2, "--timeout"),
    ],
)
def test_models_that_cannot_answer_are_refused_before_the_page_opens(run, capsys, words, code, problem):
    assert main(["chat", str(run.path), *words, "--no-browser"]) == code
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "folder", "purpose"),
    [
        (("label", "--ask", "random"), ("feedback",), "train"),
        (("compare", "--models", "sft", "model"), ("compare", "sft-run-model"), "eval"),
    ],
)
def test_each_person_gets_no_more_pairs_than_the_flag_says(run, open_store, words, folder, purpose):
    command, *more = words
    process, link = served(command, run.path, *more, "--number", 24, "--each", 3, "--join", "AAAA-BBBB")
    store = open_store(run.path.joinpath(*folder))
    try:
        wait_for(lambda: (found := store.progress().get("pairs")) and found.done == 24)
        (answers,) = answer_all(link.split("/?")[0], [Person("ann")], votes=30, code="AAAA-BBBB")
    finally:
        assert ended(process) == 0
    assert answers.total() == 3 == len({label.item for label in store.labels(purpose)})


@pytest.mark.parametrize("code", ["", "---", "12345", "a-b-c-d-e"])
@pytest.mark.parametrize("command", ["label", "compare", "loop"])
def test_a_code_that_is_easy_to_guess_is_refused(tmp_path, capsys, command, code):
    assert main([command, str(tmp_path / "run"), "--join", code]) == 2
    assert f"--join {code}: too easy to guess" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            "import sys; print('one'); sys.exit('it broke')",
            "ended with code 1; the last line in log.txt is: it broke",
        ),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9, perhaps because memory ran out"),
    ],
)
def test_the_page_says_when_the_process_beside_it_has_ended_and_how(tmp_path, open_store, program, expected):
    store = open_store(tmp_path)
    store.set_progress("pairs", 0, 1, "starting")
    with beside([sys.executable, "-c", program], tmp_path, "pairs"):
        wait_for(lambda: store.progress()["pairs"].failed)
    assert expected in store.progress()["pairs"].message


@pytest.mark.parametrize("message", ["all is done", "error: what the process itself has said"])
def test_a_process_that_has_finished_or_has_said_why_is_left_alone(tmp_path, open_store, message):
    store = open_store(tmp_path)
    store.set_progress("pairs", int(message == "all is done"), 1, message)
    with beside([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, "pairs"):
        time.sleep(0.5)
    assert store.progress()["pairs"].message == message


def test_ending_the_command_is_no_error(tmp_path, open_store):
    store = open_store(tmp_path)
    store.set_progress("pairs", 0, 1, "starting")
    with beside([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, "pairs"):
        pass
    assert store.progress()["pairs"].message == "starting"
