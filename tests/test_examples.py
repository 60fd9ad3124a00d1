"""The files in examples/, at small size."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

import plaudit
from plaudit.cli import main
from plaudit.data import embedded
from plaudit.records import LabelledText
from tests.tiny import make_lm, make_tokenizer

FOLDER = Path(plaudit.__file__).parents[2] / "examples"
SCRIPTS = ("gpt2_sentiment.py", "research.py")  # not rewards; see also test_research.py
REWARDS = sorted(path for path in FOLDER.glob("*.py") if path.name not in SCRIPTS)
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
    assert all(len(path.read_text().splitlines()) <= 30 for path in FOLDER.glob("*.py"))


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


def test_the_sentiment_example_of_trl_prints_what_each_seed_scored(tmp_path, monkeypatch, capsys):
    labels = {"good .": 1, "bad .": 0}
    reviews = [
        LabelledText(f"film number {n} is " * 20 + word, label) for n in range(40) for word, label in labels.items()
    ]
    monkeypatch.setattr(embedded, "imdb", lambda: reviews)
    model = str(tmp_path / "model")
    make_lm(window=512).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    open_run, seeds = plaudit.open_run, []

    def smaller(path, data, settings):
        if settings["seed"] == 3:
            raise EOFError("two seeds are enough here")
        seeds.append(settings["seed"])
        small = {name: value for name, value in SMALL.items() if name != "prompt_max"}
        return open_run(
            tmp_path / path, data, settings | small | {"model": model, "sft.epochs": 0, "sft.max_tokens": 400}
        )

    monkeypatch.setattr(plaudit, "open_run", smaller, raising=False)
    with pytest.raises(EOFError):
        runpy.run_path(str(FOLDER / "gpt2_sentiment.py"))
    lines = capsys.readouterr().out.splitlines()
    assert seeds == [1, 2]
    assert [line.split()[:2] for line in lines] == [
        [str(n), key] for n in seeds for key in ("sft_score", "policy_score")
    ]
    assert all(re.fullmatch(r"\S+ \S+ -?\d+\.\d\d median -?\d+\.\d\d positive \d+%", line) for line in lines)


def test_a_length_target_is_highest_at_twelve_words(monkeypatch):
    monkeypatch.syspath_prepend(REWARDS[0].parent)
    from length_target import twelve_words

    assert twelve_words([""] * 3, [" a" * 12, " a" * 9, " a" * 20]) == [0, -3, -8]
    sys.modules.pop("length_target")
