"""Russian reviews from end to end: a tokenizer that fits, a judge that is fitted, prompts from the data."""

import json

import pytest

from plaudit.cli import console, main
from plaudit.data.corpus import load
from plaudit.evaluation.judge import judge_for
from plaudit.models.loading import load_causal_lm, load_tokenizer, window
from recipes.russian import ASPECTS, ROWS, reviews, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("russian")
    write(found)
    return found


def test_the_reviews_are_distinct_balanced_and_in_cyrillic():
    rows = reviews()
    assert len({text for text, _ in rows}) == len(rows) == ROWS
    assert sum(label for _, label in rows) == ROWS // 2
    assert rows == reviews()
    assert all(not character.isascii() or not character.isalpha() for text, _ in rows for character in text)
    for good, bad in ASPECTS.values():
        assert not set(good) & set(bad)


def test_the_tokenizer_fits_the_language(folder):
    tokenizer, lm = load_tokenizer(str(folder / "model")), load_causal_lm(str(folder / "model"))
    english = load_tokenizer("movie-gpt2")
    texts = [text for text, _ in reviews()]
    words = sum(len(text.split()) for text in texts)
    own, other = (sum(len(t.response(text)) for text in texts) / words for t in (tokenizer, english))
    assert own < 2.2
    assert own < other
    assert all(tokenizer.text(tokenizer.response(text)) == text for text in texts)
    assert max(len(tokenizer.response(text)) for text in texts) < window(lm)


def test_the_film_judge_does_not_fit_and_a_fitted_one_does(folder):
    judge, reason = judge_for(load(str(folder / "reviews.csv")))
    assert (judge.name, reason) == ("fitted", "")
    assert judge.accuracy["accuracy_task"] > 0.8
    assert judge.accuracy["fitted_on"] < ROWS // 5


def test_a_run_writes_russian_and_is_judged(folder, capsys):
    flags = ["--model", str(folder / "model"), "--data", str(folder / "reviews.csv"), "--out", str(folder / "run")]
    flags += ["--prompt-max", "5", "--sft.epochs", "8", "--reward-model.epochs", "4", "--ppo.iterations", "2"]
    flags += ["--ppo.batch-size", "32", "--evaluation.prompts", "16", "--dtype", "float32"]
    assert main(["run", *flags]) == 0
    shown = capsys.readouterr()
    assert "settings for 0.9M parameters: " in shown.err
    evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
    assert evaluation["meta"]["judge"]["name"] == "fitted"
    assert 0 <= evaluation["policy"]["judge_positive"] <= 1
    assert "The judge was fitted on " in " ".join(shown.out.split())
    samples = [json.loads(line) for line in (folder / "run" / "samples.jsonl").read_text().splitlines()]
    openings = {" ".join(text.split()[:2]) for text, _ in reviews()}
    assert all(sample["prompt"].startswith(tuple(openings)) for sample in samples)
    console.headline(folder / "run")
    assert "film" not in capsys.readouterr().out
