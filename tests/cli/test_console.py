import dataclasses
import json
from types import SimpleNamespace

import pytest

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.cli import console, progress, tables
from plaudit.config import Config, resolve, to_toml
from plaudit.errors import RunError
from plaudit.training.run import Run

SFT = {
    "score_mean": -0.031, "score_ci95": [-0.08, 0.02], "judge_positive": 0.48, "kl_mean": 0.0, "perplexity_ref": 30.4,
    "distinct_1": 0.3, "distinct_2": 0.81, "length_mean": 21.5, "eos_rate": 0.97, "duplicate_rate": 0.004,
}  # fmt: skip
POLICY = SFT | {"score_mean": 0.614, "score_ci95": [0.57, 0.65], "judge_positive": 0.83, "kl_mean": 5.25}
WALLS = {"sft": 83, "reward_model": 40, "ppo": 725, "evaluation": 50}
SAMPLE = {
    "prompt": "the film is", "sft": " a [bold]dull[/bold] affair " * 4, "sft_score": -0.52,
    "policy": " a warm and :smile: moving film " * 4, "policy_score": 0.91,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def finished(path, policy=POLICY, samples=8, **meta):
    meta = {"prompts": 512, "seed": 1, "wall_seconds": WALLS} | meta
    (path / "evaluation.json").write_text(json.dumps({"sft": SFT, "ppo": policy, "policy": policy, "meta": meta}))
    (path / "samples.jsonl").write_text("".join(json.dumps(SAMPLE) + "\n" for _ in range(samples)))
    return path


def words(text: str) -> str:
    return " ".join(text.split())


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(name))


def test_the_headline_sets_sft_beside_policy(tmp_path, capsys):
    console.headline(finished(tmp_path))
    out = capsys.readouterr().out
    assert "512 held-out prompts, seed 1" in out
    for name, before, after in (
        ("Score", "−0.03", "0.61"),
        ("Judged positive", "48 %", "83 %"),
        ("KL", "0.0", "5.2"),
        ("Perplexity", "30.4", "30.4"),
        ("Length", "21.5", "21.5"),
        ("Ended", "97 %", "97 %"),
        ("Distinct pairs", "81 %", "81 %"),
        ("Duplicates", "0.4 %", "0.4 %"),
    ):
        cells = row(out, name).replace("\N{NO-BREAK SPACE}", " ")
        assert f" {before} " in cells
        assert f" {after} " in cells
    assert "−0.08 to 0.02" in out
    assert "0.57 to 0.65" in out
    assert "WARNING" not in out


def test_the_headline_names_a_reward_of_the_user_s_own_and_shows_its_parts(tmp_path, capsys):
    policy = POLICY | {"parts": {"polite": 0.25, "model": 1.5}}
    console.headline(finished(tmp_path, policy, reward="0.3 polite.py:polite + model", score_range=None))
    out = capsys.readouterr().out
    assert "Mean score that the reward 0.3" in out
    assert "polite.py:polite + model gives" in out
    assert "certainly negative" not in out
    assert row(out, "polite").split()[:3] == ["polite", "–", "0.25"]
    assert row(out, "model ").split()[:3] == ["model", "–", "1.50"]
    console.headline(finished(tmp_path, POLICY | {"parts": {"model": 1.5}}))
    assert "before its weight" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_tables_and_prose_fit_the_width(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    console.summary(finished(tmp_path), resolve(), {})
    lines = capsys.readouterr().out.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("Time:"))
    assert end > 30
    assert max(len(line) for line in lines[:end] if " more in " not in line) <= width


def test_a_figure_that_could_not_be_computed_is_a_dash(tmp_path, capsys):
    policy = {name: value for name, value in POLICY.items() if name != "eos_rate"} | {"kl_mean": None}
    console.headline(finished(tmp_path, policy))
    out = capsys.readouterr().out
    assert " – " in row(out, "KL")
    assert " – " in row(out, "Ended")


def test_a_score_that_rises_while_the_judge_falls_is_called_out(tmp_path, capsys):
    console.headline(finished(tmp_path, POLICY | {"judge_positive": 0.3}))
    assert "WARNING: The score rose but" in words(capsys.readouterr().out)


def test_the_summary_shows_samples_times_report_and_what_next(tmp_path, capsys):
    run = finished(tmp_path)
    console.summary(run, resolve(), {})
    out = capsys.readouterr().out
    assert "-0.52 a [bold]dull[/bold]" in words(out)  # what a model writes is no markup
    assert ":smile:" in out
    assert f"3 more in {run / 'samples.jsonl'}" in out
    assert "Time: sft 1 min 23 s, reward_model 40 s, ppo 12 min 05 s, evaluation 50 s; together 14 min 58 s" in out
    assert f"Report: {run / 'report.html'}" in out
    assert f"plaudit sample {run} 'the film is'" in out  # the first short prompt of the samples
    assert f"plaudit run --seed 2 --out {run.parent / 'seed-2'}" in out
    twice = f"{2 * PPOConfig().kl_coef:g}"
    assert f"plaudit run --ppo.kl-coef {twice} --out {run.parent / f'kl-{twice}'}" in out
    assert "--data FILE.csv" in out
    assert "\x1b" not in out


def test_what_next_keeps_the_run_s_own_settings(tmp_path, capsys):
    run = finished(tmp_path)
    console.summary(run, resolve({"seed": 7, "ppo.kl_coef": 0}), {})
    out = capsys.readouterr().out
    assert f"plaudit run --config {run / 'config.toml'} --seed 8 --out" in out
    assert "--ppo.kl-coef 0.05 " in out  # twice nothing would be nothing


def test_times_on_record_beat_those_of_this_process(tmp_path, capsys):
    console.summary(finished(tmp_path, wall_seconds={"sft": 90}), resolve(), {"evaluation": 4.0, "sft": 1.0})
    assert "Time: sft 1 min 30 s, evaluation 4.0 s; together 1 min 34 s" in capsys.readouterr().out


def test_without_samples_the_rest_is_shown(tmp_path, capsys):
    console.summary(finished(tmp_path, samples=0, wall_seconds=None), resolve(), {})
    out = capsys.readouterr().out
    assert "Judged positive" in out
    assert "Time:" not in out


def test_samples_are_side_by_side_with_their_scores(capsys):
    rows = [{"sft": "dull", "sft_score": -0.5, "policy": "lovely", "policy_score": 0.75}]
    console.samples("the film is", rows)
    out = capsys.readouterr().out
    assert out.startswith("the film is ...\n")
    assert "-0.50 dull" in row(out, "-0.50")
    assert "+0.75 lovely" in row(out, "-0.50")


def test_scores_of_a_custom_reward_may_have_any_size(tmp_path, capsys):
    run = finished(tmp_path, POLICY | {"score_mean": 1234.5, "score_ci95": [1200.0, 1300.0]})
    console.headline(run)
    assert " 1234.50 " in row(capsys.readouterr().out, "Score")
    console.samples("the film is", [{"sft": "dull", "sft_score": -87.5, "policy": "lovely", "policy_score": 1234.5}])
    assert "+1234.50 lovely" in row(capsys.readouterr().out, "-87.50 dull")


def test_seeds_are_shown_one_a_row_with_means_and_those_that_diverged(tmp_path, capsys):
    figures = {"sft_score": -0.1, "score": 0.8, "sft_judge": 0.5, "judge": 0.9, "kl": 4.0, "reward_accuracy": 0.79,
               "distinct_2_ratio": 0.8, "length_ratio": 1.1, "duplicate_rate": 0.01}  # fmt: skip
    rows = [{"seed": 1, **figures, "diverged": ""}, {"seed": 2, "diverged": "a figure is not finite"}]
    means = {"score_difference": {"mean": 0.9, "ci95": [0.8, 1.0]}, "kl": {"mean": 4.0, "ci95": None}}
    tables.seeds(tmp_path, {"seeds": rows, "means": means, "diverged": 1})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:8])) <= 80
    assert row(out, "1 ").split() == [
        "1",
        "0.79",
        "−0.10",
        "0.80",
        "0.50",
        "0.90",
        "4.00",
        "0.80",
        "1.10",
        "0.01",
        "no",
    ]
    assert row(out, "2 ").split() == ["2", *["–"] * 9, "yes"]
    assert "score, policy minus SFT: 0.90 [0.80, 1.00]" in out
    assert "KL, nats: 4.00" in out
    assert "seed 2: a figure is not finite" in out


def test_a_terminal_does_not_obey_what_a_model_writes():
    assert progress.one_line("a\n film\t\x1b[2Jis\x07 good\u202e") == "a film \ufffd[2Jis\ufffd good\ufffd"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 3.14159, "3.14"),
        ("loss", 31.4159, "31.4"),
        ("loss", 3141.59, "3142"),
        ("kl", 1e-9, "0.00"),
        ("score", 0.5, "+0.50"),
        ("accuracy", 0.7512, "75.1%"),
        ("loss", float("nan"), "-"),
        ("loss", None, "-"),
    ],
)
def test_brief_figures(name, value, text):
    assert progress.brief(name, value) == text


@pytest.mark.parametrize(
    ("done", "reward", "judged", "following"),
    [
        (("sft",), (), True, "reward-model --out"),
        (("sft",), ("polite.py:score", "model=1"), True, "reward-model --out"),
        (("sft",), ("polite.py:score",), True, "ppo --out"),  # this reward needs no reward model
        (("sft",), ("polite.py:score",), False, "ppo --out"),
        (("sft",), (), False, "ppo --reward FILE.py:NAME --out"),  # there is nothing to train a reward model on
        (("sft", "reward_model"), (), True, "ppo --out"),
        (("sft", "reward_model", "ppo"), (), True, "eval"),
        (("sft", "reinforce"), ("polite.py:score",), True, "eval"),
    ],
)
def test_the_next_command_fits_the_reward_and_can_be_copied(
    tmp_path, capsys, monkeypatch, done, reward, judged, following
):
    monkeypatch.setattr(Run, "judged", SimpleNamespace(train=SimpleNamespace(judged=judged)))
    monkeypatch.setattr(Run, "complete", lambda run, stage: stage in done)
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.toml").write_text(to_toml(dataclasses.replace(Config(), reward=reward), {}))
    console.next_command(tmp_path / "my run")
    assert capsys.readouterr().out == f"next: plaudit {following} '{tmp_path}/my run'\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing; make it with plaudit eval"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"sft": {}, "policy": {}}', "has no 'meta'"),
    ],
)
def test_a_damaged_evaluation_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(RunError) as caught:
        console.evaluation(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'evaluation.json'}: {message}")
