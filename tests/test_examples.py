"""The files in examples/, at small size."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import plaudit
from plaudit.cli import main

FOLDER = Path(plaudit.__file__).parents[2] / "examples"
REWARDS = sorted(path for path in FOLDER.glob("*.py") if path.name != "research.py")  # see test_research.py
SMALL = {
    "ppo.iterations": 2, "ppo.batch_size": 16, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 12,
    "evaluation.prompts": 8, "sft.epochs": 1, "reward_model.epochs": 1, "dtype": "float32", "device": "cpu",
    "prompt_max": 3,
}  # fmt: skip


def command(path):
    """The words of the command in the docstring of an example."""
    (line,) = re.findall(r"^plaudit (run .*--out .*)$", ast.get_docstring(ast.parse(path.read_text())), re.MULTILINE)
    return line.split()


def test_each_is_short():
    assert [path.name for path in REWARDS] == [
        "length_target.py",
        "one_sentence.py",
        "rule_and_model.py",
        "third_party_classifier.py",
    ]
    assert all(len(path.read_text().splitlines()) <= 30 for path in REWARDS)


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_its_command_runs(path, tmp_path, tiny_config, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    words = command(path)
    words[words.index("--out") + 1] = str(tmp_path / "run")
    more = SMALL | {"model": tiny_config.model, "data": tiny_config.data.name}
    assert main(words + [word for name, value in more.items() for word in (f"--{name}", str(value))]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "ppo" / "rollouts.jsonl").read_text().splitlines()]
    parts = [key for key in rows[0] if key.startswith("score.")]
    assert len(rows) == 32
    assert len(parts) == words.count("--reward")
    assert (tmp_path / "run" / "reward_model").exists() == ("model=1" in words)


def test_a_length_target_is_highest_at_twelve_words(monkeypatch):
    monkeypatch.syspath_prepend(REWARDS[0].parent)
    from length_target import twelve_words

    assert twelve_words([""] * 3, [" a" * 12, " a" * 9, " a" * 20]) == [0, -3, -8]
    sys.modules.pop("length_target")
