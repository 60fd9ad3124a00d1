"""Reward models from files of every kind of judgement: what is learned, and what stands beside the accuracy."""

import json
import re
from pathlib import Path

import pytest

from plaudit.algorithms.reward_model import judgements
from plaudit.cli.console import details
from plaudit.config import build, known_settings
from plaudit.data.corpus import load
from plaudit.data.judgements import judgements_of
from plaudit.data.splits import Part, Splits
from plaudit.errors import DataError, RunError
from plaudit.evaluation.doctor import doctor
from plaudit.evaluation.report import write_report
from plaudit.evaluation.report.words import beside_accuracy
from plaudit.pipeline import check, steps
from plaudit.records import Comparison, Ranking
from plaudit.training.run import Run

WORDS = ("a joy", "fine", "a chore", "dreadful")  # from the best to the worst
ROWS = 240


def labels(i):
    return {"text": f"film {i} is {WORDS[i % 4]}", "label": 1 - (i % 4) // 2}


def stars(i):
    return {"text": f"film {i} is {WORDS[i % 4]}", "stars": 5 - i % 4}


def marks(i):
    return {"prompt": f"film {i} is", "completion": WORDS[i % 4], "label": i % 4 < 2}


def compared(i):
    a, b = i % 4, (i + 1 + (i // 4) % 3) % 4
    return {
        "prompt": f"film {i} is",
        "response_a": WORDS[a],
        "response_b": WORDS[b],
        "choice": "a" if a < b else "b",
    }


def with_margins(i):
    row = compared(i)
    return row | {"margin": abs(WORDS.index(row["response_a"]) - WORDS.index(row["response_b"]))}


def ranked(i):
    order = [0, 1, 2, 3][: 3 + i % 2]
    turned = order[i % 3 :] + order[: i % 3]
    return {
        "prompt": f"film {i} is",
        "responses": [WORDS[k] for k in turned],
        "ranks": [k + 1 for k in turned],
    }


KINDS = {
    "labels": (labels, "labels"),
    "stars": (stars, "labels"),
    "marks": (marks, "labels"),
    "comparisons": (compared, "comparisons"),
    "margins": (with_margins, "comparisons"),
    "rankings": (ranked, "rankings"),
}


def write(path: Path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


@pytest.fixture
def trained(tmp_path, finished_run, tiny_model_folder):
    """A function that trains a reward model on some rows, from the tests' SFT model."""

    def train(rows, **settings) -> Run:
        given = {
            "model": tiny_model_folder, "data": write(tmp_path / "data.jsonl", rows), "device": "cpu",
            "dtype": "float32", "reward_model.lr": 5e-3, "reward_model.batch_size": 16, "reward_model.epochs": 4,
            "sft.epochs": 1, "sft.batch_size": 64,
        }  # fmt: skip
        config = build(given | {f"reward_model.{name}": value for name, value in settings.items()})
        check(config, tmp_path / "run", ("sft", "reward_model"))
        run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft", "reward_model"))
        list(steps(run, ("sft", "reward_model")))
        return run

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_model_learns_from_every_kind_of_judgement(trained, kind):
    row, name = KINDS[kind]
    run = trained(map(row, range(ROWS)), margin=0.5 if kind == "margins" else 0.0)
    summary = run.summary("reward_model")
    assert summary["kind"] == name
    assert summary["accuracy"] > 0.8
    assert summary["trivial_rules"]["bag of words"]["accuracy"] > 0.8
    assert {"longer wins", "shorter wins"} <= summary["trivial_rules"].keys() or name == "labels"
    assert ("the more frequent label" in summary["trivial_rules"]) == (name == "labels")
    assert ("spearman" in summary) == (kind == "stars")
    if kind == "stars":
        assert summary["spearman"] > 0.8
        assert summary["mean_absolute_error"] < 0.2
    if kind == "margins":
        margins = summary["margins"]
        assert margins["records"] == summary["records"]
        assert (margins["weight"], 1 < margins["mean"] < 3) == (0.5, True)
    assert summary["people"] is None
    # The words decide everything here, so no reward model can be better than a bag of them.
    assert summary["warnings"][0].endswith("give more or cleaner judgements, or a larger model")


def test_several_annotators_are_one_record_with_their_agreement(trained):
    names = ("ann", "bob", "cid")

    def votes(i):
        for person, name in enumerate(names):
            row = compared(i) | {"annotator": name}
            if person == i % 3 and i % 2:  # in half of the pairs one of the three disagrees
                row["choice"] = "b" if row["choice"] == "a" else "a"
            if person == 2:  # who sees them in the other order
                row["response_a"], row["response_b"] = row["response_b"], row["response_a"]
                row["choice"] = "b" if row["choice"] == "a" else "a"
            yield row

    run = trained([row for i in range(ROWS) for row in votes(i)])
    summary = run.summary("reward_model")
    assert 0.7 * ROWS < summary["records"] < 0.9 * ROWS  # not three times as many
    people = summary["people"]
    assert people["pairs"] == summary["held_out"]
    assert 0.55 < people["two_people"] < 0.8  # (1 + 1/3) / 2
    assert 0.6 < people["person_and_others"] < 0.9
    assert 0.7 < people["model_and_person"] < 0.95
    assert "spearman" in summary
    assert summary["trivial_rules"]["first wins"]["accuracy"] == 0.5
    rows = {name: share for name, share, _ in beside_accuracy(summary)}
    assert rows["one person with another"] == people["two_people"]


def test_what_stands_beside_the_accuracy_is_on_the_console_in_the_report_and_in_the_checks(trained):
    run = trained([compared(i) | {"choice": "ab"[i // 7 % 2]} for i in range(ROWS)], epochs=1)  # noise
    lines = [line.plain for line in details(run.path, "reward_model")]
    assert any(line.startswith("  rule: bag of words") and line.endswith("%") for line in lines)
    assert sum("wins" in line and "rule: " in line for line in lines) == 2  # first; longer or shorter
    assert "beyond noise it is no better than this rule" in lines[-1]
    write_report(run.path)
    page = (run.path / "report.html").read_text()
    assert "rule: bag of words" in page
    assert "beyond noise it is no better than this rule" in page
    found = {c.name: c for c in doctor(run, "ppo")}["reward model against trivial rules"]
    assert (found.ok, found.stops) == (False, False)


def test_a_reward_model_that_is_better_gives_no_warning(trained):
    """Which word is good depends on another word, which no bag of words can see."""

    def row(i):
        good = i % 2 == 0
        first, second = ("joy", "chore") if i % 4 < 2 else ("chore", "joy")
        return {"text": f"{first} {'over' if good == (i % 4 < 2) else 'under'} {second} film {i}", "label": int(good)}

    summary = trained(map(row, range(480)), epochs=12, lr=1e-2).summary("reward_model")
    assert summary["accuracy"] > 0.9
    assert summary["trivial_rules"][summary["best_rule"]]["accuracy"] < 0.75
    assert summary["warnings"] == []


@pytest.mark.parametrize("rows", [[Ranking("p", (f"one {i}", "two")) for i in range(1)], []])
def test_too_few_rankings_are_refused(rows, tiny_tokenizer):
    many = Part(rankings=tuple(Ranking("p", (f"one {i}", "two")) for i in range(9)))
    with pytest.raises(DataError, match=r"fewer than 2|neither labels nor comparisons nor rankings"):
        judgements(Splits("x", Part(rankings=tuple(rows)), Part(), many, {}), tiny_tokenizer, 64)
    with pytest.raises(DataError, match=r"fewer than 2|neither labels nor comparisons nor rankings"):
        judgements(Splits("x", many, Part(), Part(rankings=tuple(rows)), {}), tiny_tokenizer, 64)


@pytest.mark.parametrize("ties", ["half", "drop"])
def test_ties_only_are_refused_whatever_is_done_with_ties(ties, tiny_tokenizer):
    def part(n, choice):
        return Part(comparisons=tuple(Comparison(f"film {i}", "is good", "is bad", choice) for i in range(n)))

    with pytest.raises(DataError, match=r"x: all 9 training comparisons are ties: add some with a preference"):
        judgements(Splits("x", part(9, "tie"), Part(), part(9, "a"), {}), tiny_tokenizer, 64, ties)


DOCUMENT = Path(__file__).parents[2] / "docs" / "reward-model.md"
KINDS_OF_EXAMPLES = ("labels", "labels", "labels", "comparisons", "comparisons", "comparisons", "rankings")


def varied(value, i):
    """Texts of which each repetition of an example is another; other values as they are."""
    if isinstance(value, list):
        return [varied(v, i) for v in value]
    return f"{value} {i}" if isinstance(value, str) and " " in value else value


def test_every_example_of_the_documentation_is_read(tmp_path, tiny_tokenizer):
    blocks = re.findall(r"```json\n(.+?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == len(KINDS_OF_EXAMPLES)
    for number, (block, kind) in enumerate(zip(blocks, KINDS_OF_EXAMPLES, strict=True)):
        rows = [{k: varied(v, i) for k, v in json.loads(x).items()} for i in range(150) for x in block.splitlines()]
        part = load(write(tmp_path / f"{number}.jsonl", rows)).train
        judged = judgements_of(part)
        most = max(len(judgement.texts) for judgement in judged)
        assert {1: "labels", 2: "comparisons"}.get(most, "rankings") == kind
        if "margin" in block:
            assert {judgement.margin for judgement in judged} == {2.5}
        if "annotator" in block:
            assert {(judgement.weight in (0, 1), len(judgement.people)) for judgement in judged} == {(True, 2)}
        if "stars" in block:
            assert {judgement.weight for judgement in judged} == {0, 0.5, 1}
        if "ranks" in block:
            assert all(judgement.texts[0].startswith("Eight minutes") for judgement in judged)
        if kind == "labels" and "prompt" in block:
            assert all(judgement.prompt for judgement in judged)


def test_the_settings_of_the_documentation_exist():
    page = DOCUMENT.read_text(encoding="utf-8")
    flags = set(re.findall(r"--([a-z-]+\.[a-z-]+)", page))
    assert {"reward-model.margin", "reward-model.ties", "reward-model.members", "ppo.lower-bound"} <= flags
    assert not [flag for flag in flags if flag.replace("-", "_") not in known_settings()]


def test_judgements_can_have_a_file_of_their_own(tmp_path, tiny_config):
    texts, votes = tmp_path / "texts.txt", tmp_path / "votes.jsonl"
    texts.write_text("".join(f"film {i} is {WORDS[i % 2]} to watch\n" for i in range(ROWS)))
    votes.write_text("".join(json.dumps(compared(i)) + "\n" for i in range(ROWS)))
    settings = {
        "model": tiny_config.model, "data": str(texts), "device": "cpu", "dtype": "float32",
        "sft.epochs": 1, "reward_model.epochs": 4, "reward_model.lr": 5e-3,
    }  # fmt: skip
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        check(build(settings), tmp_path / "run", ("sft", "reward_model"))
    config = build(settings | {"reward_model.judgements": str(votes)})
    assert check(config, tmp_path / "run", ("sft", "reward_model")) == []
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft", "reward_model"))
    for _ in steps(run, ("sft", "reward_model")):
        pass
    summary = run.summary("reward_model")
    assert summary["kind"] == "comparisons"
    assert summary["records"] == len(load(str(votes)).train.comparisons)
    assert summary["accuracy"] > 0.9

    with votes.open("a") as file:
        file.write(json.dumps(compared(ROWS)) + "\n")
    run.check_inputs("sft")
    with pytest.raises(RunError, match=r"its reward_model was made from other data: .*votes\.jsonl has changed"):
        run.check_inputs("reward_model")
