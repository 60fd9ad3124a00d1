"""Receipts: what they say of a run, and a check that trains again."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from plaudit.cli import main
from plaudit.errors import RunError
from plaudit.files import sha256
from plaudit.pipeline import steps
from plaudit.publishing.receipt import Figure, compared, read_receipt, settings_of, write_receipt
from plaudit.training.run import Run


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def test_it_says_what_the_run_was_made_from_and_what_came_out(run):
    page = write_receipt(run).read_text()
    content, evaluation = read_receipt(run / "receipt.md"), json.loads((run / "evaluation.json").read_text())
    assert content["stages"].keys() == {"sft", "reward_model", "ppo"}
    for stage, digest in content["stages"].items():
        assert digest == sha256(run / stage / "model.safetensors")
        assert digest in page
    assert content["figures"]["score, policy"] == [
        evaluation["policy"]["score_mean"], *evaluation["policy"]["score_ci95"]
    ]  # fmt: skip
    statement = re.search(r"^We trained .*$", page, re.MULTILINE).group()
    assert f"{evaluation['policy']['score_mean']:.2f} [" in statement
    assert "seed 1" in statement
    assert settings_of(content)["ppo.iterations"] == 4
    assert "`ppo.iterations = 4`" in page
    assert "`ppo.gamma" not in page


def test_a_run_that_is_not_evaluated_has_no_receipt(run):
    (run / "report.html").unlink()
    with pytest.raises(RunError, match="no evaluation here; run: plaudit eval"):
        write_receipt(run)


@pytest.mark.parametrize(
    "text", ["", "# A page\n", "```json\n{}\n```\n", "```json\n{\n```\n", '```json\n{"kind": 1}\n```\n']
)
def test_other_files_are_no_receipts(tmp_path, text):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(RunError, match="receipt"):
        read_receipt(tmp_path / "page.md")


def test_checked_on_the_same_machine_every_weight_is_equal(run, tmp_path, capsys):
    assert main(["receipt", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "receipt.md")
    assert main(["receipt", "--check", str(run / "receipt.md"), "--out", str(tmp_path / "again")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "weights equal to the last bit: sft, reward_model, ppo" in out
    assert "DIFFERS" not in out
    figures, weights = compared(read_receipt(run / "receipt.md"), Run.existing(tmp_path / "again"))
    assert all(weights.values())
    assert all(figure.here == figure.before for figure in figures)


def test_a_figure_that_was_made_up_differs(run, capsys, tmp_path):
    path = write_receipt(run)
    content = read_receipt(path)
    value, low, high = content["figures"]["score, policy"]
    content["figures"]["score, policy"] = [value + 3, low + 3, high + 3]
    path.write_text(f"```json\n{json.dumps(content)}\n```\n")
    shutil.copytree(run, tmp_path / "again")
    assert main(["receipt", "--check", str(path), "--out", str(tmp_path / "again")]) == 1
    assert "not as in the receipt: score, policy" in " ".join(capsys.readouterr().out.split())


def test_other_data_are_refused_before_anything_is_trained(run, tmp_path, capsys):
    content = read_receipt(write_receipt(run))
    content["data"]["fingerprint"] = "0" * 64
    (tmp_path / "receipt.md").write_text(f"```json\n{json.dumps(content)}\n```\n")
    assert main(["receipt", "--check", str(tmp_path / "receipt.md"), "--out", str(tmp_path / "again")]) == 1
    assert "not the data of the receipt" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_judgements_that_the_receipt_has_not_are_refused(run, tmp_path, capsys):
    words = ["receipt", "--check", str(write_receipt(run)), "--out", str(tmp_path / "again")]
    assert main([*words, "--judgements", str(tmp_path / "votes.tsv")]) == 1
    assert "leave out --judgements" in capsys.readouterr().err


def test_a_setting_of_another_version_is_named(run):
    content = read_receipt(write_receipt(run))
    content["settings"]["ppo.future"] = 1
    with pytest.raises(RunError, match=r"the setting 'ppo\.future', which this plaudit does not"):
        settings_of(content)


@pytest.mark.parametrize(("words", "code"), [(["receipt"], 2), (["receipt", "a", "--check", "b"], 2)])
def test_either_a_run_or_a_receipt(words, code, capsys):
    assert main(words) == code
    assert "name a run directory, or a receipt with --check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("here", "tolerance", "agrees"),
    [(0.55, 0.1, True), (0.65, 0.1, False), (0.9, None, None), (None, 0.1, False), (None, None, False)],
)
def test_what_agrees(here, tolerance, agrees):
    assert Figure("score", 0.5, here, tolerance).agrees is agrees


def test_judgements_of_their_own_are_in_it_and_may_lie_elsewhere(finished_run, tiny_config, tmp_path, capsys):
    votes, moved = tmp_path / "votes.tsv", tmp_path / "elsewhere.tsv"
    votes.write_text(Path(tiny_config.data.name, "train.tsv").read_text())
    settings = dataclasses.replace(tiny_config.reward_model, judgements=str(votes))
    run = Run.existing(finished_run).branch(
        tmp_path / "run", dataclasses.replace(tiny_config, reward_model=settings), ("sft",)
    )
    for _ in steps(run, ("reward_model", "ppo", "evaluation")):
        pass
    path = write_receipt(run.path)
    assert f"| judgements | {votes} |" in path.read_text()
    votes.rename(moved)
    words = ["receipt", "--check", str(path), "--out", str(tmp_path / "again")]
    votes.write_text(moved.read_text().replace("film 1 ", "film 1001 "))
    assert main(words) == 1
    assert "not the judgements of the receipt; say where they lie with --judgements" in capsys.readouterr().err
    assert main([*words, "--judgements", str(moved)]) == 0
    assert "weights equal to the last bit: sft, reward_model, ppo" in " ".join(capsys.readouterr().out.split())
