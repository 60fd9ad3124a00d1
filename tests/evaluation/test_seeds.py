import json
import math
import shutil

import numpy as np
import pytest

from plaudit import cli, pipeline
from plaudit.config import build
from plaudit.errors import TrainingError
from plaudit.evaluation.seeds import diverged, summarise
from plaudit.training import manifest
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run

FIGURES = {"score_mean": 0.1, "judge_positive": 0.5, "kl_mean": 4.0, "distinct_2": 0.8, "length_mean": 20.0,
           "duplicate_rate": 0.0}  # fmt: skip
STEADY = [{"step": i, "score": 0.5, "kl": 3.0, "kl_k1": 3.0 + 0.1 * (-1) ** i} for i in range(30)]


def evaluation(**policy) -> dict:
    return {"sft": FIGURES, "policy": FIGURES | {"score_mean": 0.7} | policy}


@pytest.mark.parametrize(
    ("policy", "last", "expected"),
    [
        ({}, {}, ""),
        ({"kl_mean": 49.0}, {}, ""),
        ({"kl_mean": 51.0}, {}, "KL of 51 nats"),
        ({"score_mean": 0.05}, {}, "score 0.05 below SFT's 0.10"),
        ({"kl_mean": None}, {}, "a metric is not finite"),
        ({}, {"score": None}, "a metric is not finite"),
        ({}, {"kl_k1": -5.0}, ""),  # a mean of 2.2 over the last ten
        ({}, {"kl_k1": -33.0}, ""),  # a mean of -0.6 due to one iteration: noise
    ],
)
def test_reasons_for_divergence(policy, last, expected):
    assert diverged(evaluation(**policy), [*STEADY, STEADY[-1] | last]) == expected


def test_a_significantly_negative_kl_is_divergence():
    negative = [row | {"kl_k1": row["kl_k1"] - 4.0} for row in STEADY]
    assert diverged(evaluation(), negative) == "negative KL (k1) of -1.00 nats"
    assert diverged(evaluation(), [*negative[:20], *STEADY[20:]]) == ""  # only in early iterations


def test_a_run_without_judge_and_reward_model_has_no_figures_of_them(tmp_path):
    run = Run(tmp_path / "seed-1", build({"seed": 1}))
    (run.path / "ppo").mkdir(parents=True)
    no_judge = {"judge_positive": None}
    content = {"sft": FIGURES | no_judge, "policy": FIGURES | no_judge}
    (run.path / "evaluation.json").write_text(json.dumps(content))
    line = {"sft_score": 1.0, "sft_judge": None, "policy_judge": None}
    lines = [line | {"prompt": str(i), "policy_score": 1.5 + i} for i in range(2)]
    (run.path / "responses.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = summarise(tmp_path, [run], {})
    assert found == json.loads((tmp_path / "seeds.json").read_text())
    assert found["seeds"][0]["reward_accuracy"] is found["seeds"][0]["judge"] is None
    assert found["means"]["score_difference"]["mean"] == 1.0
    assert not {"judge_difference", "reward_accuracy"} & set(found["means"])


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Replace the stages: seed k raises the score of two prompts by k/10 and by 0. Records which seeds ran."""
    worked: list[int] = []
    fails: dict[int, BaseException] = {}

    def steps(run, stages):
        seed = run.config.seed
        for stage in stages:
            if run.complete(stage):
                continue
            worked.append(seed)
            if seed in fails:
                raise fails[seed]
            if stage == "evaluation":
                policy = FIGURES | {"score_mean": 0.1 + seed / 20, "distinct_2": 0.4, "length_mean": 15.0}
                (run.path / "evaluation.json").write_text(json.dumps({"sft": FIGURES, "policy": policy}))
                line = {"sft_score": 0.1, "sft_judge": 0.4}
                lines = [line | {"prompt": "a", "policy_score": 0.1 + seed / 10, "policy_judge": 0.9}]
                lines += [line | {"prompt": "b", "policy_score": 0.1, "policy_judge": 0.3}]
                (run.path / "responses.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
                (run.path / "report.html").write_text("")
                manifest.write(run.path, [run.path / "evaluation.json", run.path / "responses.jsonl"])
            else:
                run.folder(stage).mkdir(exist_ok=True)
                run.finish(stage, {"accuracy": 0.7 + seed / 100})
            yield StepReport(stage, 1, 1, {"loss": 1.0}, {"seconds": 0.1, "tokens_per_second": 1.0})

    monkeypatch.setattr(pipeline, "steps", steps)
    monkeypatch.setattr(pipeline, "check", lambda config, path, stages: [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return worked, fails


def output_of(capsys, *argv: str, code: int = 0) -> tuple[str, str]:
    assert cli.main(["seeds", *argv]) == code
    return capsys.readouterr()


def test_each_seed_is_shown_and_the_means_are_of_paired_differences(stages, tmp_path, capsys):
    out, err = output_of(capsys, "--n", "3", "--seed", "2", "--out", "many")
    assert [line for line in err.splitlines() if line.startswith("seed ")] == ["seed 2", "seed 3", "seed 4"]
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("2 ", "3 ", "4 "))]
    assert [row[:4] for row in rows] == [
        ["2", "0.72", "0.10", "0.20"],  # seed, accuracy of the reward model, score of SFT and of the policy
        ["3", "0.73", "0.10", "0.25"],
        ["4", "0.74", "0.10", "0.30"],
    ]
    assert [row[-5:] for row in rows] == [["4.00", "0.50", "0.75", "0.00", "no"]] * 3
    assert "0 of 3 diverged" in out
    assert "…" not in out
    assert max(map(len, out.splitlines()[:8])) <= 80
    found = json.loads((tmp_path / "many" / "seeds.json").read_text())
    assert found["means"]["score_difference"]["mean"] == pytest.approx(np.mean([0.1, 0.15, 0.2]))
    assert found["means"]["judge_difference"]["mean"] == pytest.approx(0.5)
    assert found["means"]["reward_accuracy"]["mean"] == pytest.approx(0.73)
    assert found["means"]["length_ratio"] == {"mean": 0.75, "ci95": [0.75, 0.75]}
    low, high = found["means"]["score_difference"]["ci95"]
    half = math.hypot(4.3027 * 0.05 / 3**0.5, 12.706 * 0.075 * 2**0.5)  # over three seeds, and over two prompts
    assert (low, high) == pytest.approx((0.15 - half, 0.15 + half), abs=1e-3)
    assert f"score, policy minus SFT: 0.15 [{low:.2f}, {high:.2f}]".replace("-", "−") in out


def test_figures_are_those_of_the_run_directories(tmp_path, finished_run, capsys):
    shutil.copytree(finished_run, tmp_path / "many" / "seed-1")
    _, err = output_of(capsys, "--n", "1", "--resume", "--out", str(tmp_path / "many"))
    assert err.count("[was complete]") == 4
    found = json.loads((tmp_path / "many" / "seeds.json").read_text())
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    gain = evaluation["policy"]["score_mean"] - evaluation["sft"]["score_mean"]
    assert found["means"]["score_difference"]["mean"] == pytest.approx(gain)
    gain = evaluation["policy"]["judge_positive"] - evaluation["sft"]["judge_positive"]
    assert found["means"]["judge_difference"]["mean"] == pytest.approx(gain)
    accuracy = json.loads((finished_run / "reward_model" / "summary.json").read_text())["accuracy"]
    assert found["seeds"][0]["reward_accuracy"] == accuracy
    assert found["seeds"][0]["kl"] == evaluation["policy"]["kl_mean"]
    assert found["means"]["kl"] == {"mean": evaluation["policy"]["kl_mean"], "ci95": None}  # one seed has no interval
    assert found["diverged"] == sum(bool(row["diverged"]) for row in found["seeds"])


def test_a_file_in_place_of_the_folder_is_a_one_line_error(stages, tmp_path, capsys):
    (tmp_path / "many").write_text("")
    _, err = output_of(capsys, "--out", "many", code=1)
    assert err.splitlines()[-1].startswith("plaudit: error: many/seed-1: ")
    assert err.count("\n") == 2  # after the header


def test_resume_keeps_finished_seeds_and_settings(stages, capsys):
    worked, fails = stages
    fails[2] = KeyboardInterrupt()
    argv = ("--n", "2", "--ppo.kl-coef", "0.5", "--out", "many")
    _, err = output_of(capsys, *argv, code=130)
    assert err.splitlines()[-1].endswith("plaudit seeds --n 2 --ppo.kl-coef 0.5 --out many --resume")
    _, err = output_of(capsys, *argv, code=1)
    assert err.splitlines()[-1].startswith("plaudit: error: many/seed-1: already holds")
    fails.clear()
    worked.clear()
    out, _ = output_of(capsys, "--resume", "--out", "many", "--n", "2")
    assert worked == [2, 2, 2, 2]
    assert "0 of 2 diverged" in out


def test_a_failed_seed_counts_as_diverged_and_the_others_continue(stages, capsys):
    stages[1][1] = TrainingError("ppo iteration 7: the loss is not finite")
    out, _ = output_of(capsys, "--n", "2", "--out", "many")
    assert "1 of 2 diverged" in out
    assert "seed 1: ppo iteration 7: the loss is not finite\n" in out
    assert "score, policy minus SFT: 0.10" in out  # of seed 2 alone
