"""The process of the models: the lines that it reads and writes, in this process and in one of its own."""

import dataclasses
import json
import subprocess
import sys

import pytest

from plaudit.answering.process import serve
from plaudit.config import to_toml
from plaudit.training.run import Run
from plaudit.training.versions import versions

REQUEST = {
    "turn": 1, "place": 0, "message": "the cast", "asked": ["the cast", "the cast"], "temperature": 0.8, "seed": 1,
    "max_new_tokens": 8, "answers": 2,
}  # fmt: skip
COMMAND = [sys.executable, "-m", "plaudit.answering.process", "--"]


def kinds(messages):
    return [message["kind"] for message in messages]


def test_requests_are_answered_one_after_the_other(finished_run):
    said = []
    requests = [REQUEST, REQUEST | {"turn": 2, "max_new_tokens": 64}, REQUEST | {"turn": 3}]
    serve(Run.existing(finished_run), ("sft", "ppo"), iter(requests), said.append)
    loading = [message for message in said if message["kind"] == "loading"]
    assert [message["done"] for message in loading] == list(range(loading[0]["total"]))
    ready = said[len(loading)]
    assert (ready["kind"], ready["chats"], ready["reward"]) == ("ready", False, "reward model")
    assert len(ready["prompts"]) >= 2
    assert kinds(said[len(loading) + 1 :]) == ["answers", "answers", "done", "failed", "answers", "answers", "done"]
    failed = next(message for message in said if message["kind"] == "failed")
    assert failed["turn"] == 2
    assert "do not fit into the model's window" in failed["message"]
    first, again = ([m["answers"] for m in said if m.get("turn") == n and m["kind"] == "answers"] for n in (1, 3))
    assert first == again
    assert [len(answers) for answers in first] == [2, 2]


@pytest.fixture
def noisy_run(bare_run, tmp_path):
    """A run whose reward prints."""
    file = tmp_path / "noisy.py"
    file.write_text(
        "print('imported')\ndef noisy(prompts, responses):\n    print('scoring')\n    return [1.0] * len(responses)\n"
    )
    run = bare_run()
    config = run.path / "config.toml"
    changed = dataclasses.replace(run.config, reward=(f"{file}:noisy",))
    config.write_text(to_toml(changed, versions(changed.model)))
    return run.path


def test_what_a_reward_prints_does_not_disturb_and_the_end_of_input_ends_the_process(noisy_run):
    process = subprocess.Popen(
        [*COMMAND, str(noisy_run), "sft", "sft"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdin.write(json.dumps(REQUEST) + "\n")
    process.stdin.flush()
    said = []
    while not said or said[-1]["kind"] not in ("done", "failed", "error"):
        said.append(json.loads(process.stdout.readline()))
    assert said[-1]["kind"] == "done"
    assert said[-2]["answers"][0]["score"] == 1.0
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stdout.read() == ""
    assert "scoring" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()


def test_models_that_cannot_be_opened_are_one_line(finished_run):
    found = subprocess.run(
        [*COMMAND, str(finished_run), "sft", "no-such-model"], capture_output=True, text=True, stdin=subprocess.PIPE
    )
    last = json.loads(found.stdout.splitlines()[-1])
    assert last["kind"] == "error"
    assert last["message"].startswith("no model 'no-such-model'")
    assert found.returncode == 1
