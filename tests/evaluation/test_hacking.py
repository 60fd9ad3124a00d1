import dataclasses
import json
import shutil

import numpy as np
import pytest

from plaudit.evaluation import hacking
from plaudit.evaluation.hacking import Window, hacking_signs, windows_of
from plaudit.pipeline import steps
from plaudit.training.run import Run

CALM = {"score": 0.2, "judge_positive": 0.8, "distinct_2": 0.8, "perplexity_ref": 15.0}


def series(**measures: list[float]) -> list[Window]:
    """Windows of 640 responses, five iterations each; what is not given stays as it was."""
    rows = zip(*measures.values(), strict=True)
    return [Window(5 * (i + 1), 640, **CALM | dict(zip(measures, row, strict=True))) for i, row in enumerate(rows)]


RISING = [0.2, 0.5, 0.8, 0.9, 0.95, 0.97]


@pytest.mark.parametrize(
    ("measure", "falling", "trips_at"),
    [
        ("judge_positive", [0.8, 0.78, 0.7, 0.65, 0.6, 0.5], 25),  # 20, 25 are second and third below
        ("distinct_2", [0.8, 0.6, 0.39, 0.3, 0.25, 0.2], 25),
        ("perplexity_ref", [15, 18, 24, 30, 34, 35], 25),
        ("perplexity_ref", [15, 12, 9, 8, 7, 7], 25),
    ],
)
def test_a_score_that_rises_while_what_it_stands_for_falls_trips(measure, falling, trips_at):
    (sign,) = hacking_signs(series(score=RISING, **{measure: falling}))
    assert (sign.measure, sign.before.step, sign.now.step) == (measure, 5, trips_at)


def test_the_warning_says_from_where_to_where_and_what_to_do():
    (sign,) = hacking_signs(series(score=RISING, distinct_2=[0.8, 0.6, 0.39, 0.3, 0.25, 0.2]))
    assert sign.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Reward hacking: from iteration 5 to 25 of PPO the score rose from 0.20 to 0.95 while 'Distinct pairs' went "
        "from 80 % to 25 %. The score is no success; raise ppo.kl_coef or train less."
    )


def test_a_judge_that_falls_back_from_its_best_trips_though_it_is_above_the_beginning():
    """Gao et al. 2022: the gold score rises with the proxy, then falls while the proxy goes on."""
    (sign,) = hacking_signs(series(score=RISING, judge_positive=[0.6, 0.8, 0.9, 0.8, 0.78, 0.75]))
    assert (sign.before.step, sign.now.step) == (15, 30)


def test_signs_come_in_the_order_in_which_they_showed():
    found = hacking_signs(
        series(score=RISING, judge_positive=[0.8, 0.8, 0.8, 0.6, 0.6, 0.6], distinct_2=[0.8, 0.3, 0.3, 0.3, 0.3, 0.3])
    )
    assert [(s.measure, s.now.step) for s in found] == [("distinct_2", 20), ("judge_positive", 30)]


@pytest.mark.parametrize(
    "measures",
    [
        {"judge_positive": [0.6, 0.7, 0.8, 0.9, 0.93, 0.96]},  # both rise
        {"distinct_2": [0.8, 0.74, 0.7, 0.66, 0.62, 0.6]},  # the mild narrowing of PPO that goes well
        {"perplexity_ref": [15, 14, 13.5, 13, 13, 12.8]},
        {"judge_positive": [0.8, 0.77, 0.76, 0.76, 0.77, 0.76]},  # under the 5 points that are material
        {"distinct_2": [0.8, 0.3, 0.3, 0.7, 0.3, 0.3]},  # never three in a row
    ],
)
def test_what_is_no_sign(measures):
    assert hacking_signs(series(score=RISING, **measures)) == []


def test_a_fall_without_a_rise_is_no_sign():
    assert (
        hacking_signs(series(score=[0.2, 0.21, 0.19, 0.2, 0.15, 0.1], distinct_2=[0.8, 0.3, 0.2, 0.2, 0.1, 0.1])) == []
    )


def test_short_series_say_nothing():
    assert hacking_signs([]) == []
    assert hacking_signs(series(score=RISING[:3], distinct_2=[0.8, 0.1, 0.1])) == []


def test_sampling_noise_does_not_trip():
    """640 real draws a window around a judge of 80 % and a score of 0.2 that do not move: 200 runs of 20 windows."""
    draw = np.random.default_rng(0)
    judge = draw.binomial(640, 0.8, (200, 20)) / 640
    score = 2 * draw.binomial(640, 0.6, (200, 20)) / 640 - 1  # responses of score -1 or 1: the widest there is
    assert [
        hacking_signs(series(score=s, judge_positive=j)) for s, j in zip(score.tolist(), judge.tolist(), strict=True)
    ] == [[]] * 200


class Judge:
    """Finds everything positive at first, and less and less of what is written later."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def positive(self, texts):
        self.asked.append(len(texts))
        return np.linspace(0, 1, len(texts))


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of one tiny iteration, and thresholds that noise passes: the wiring is what is looked at."""
    judge = Judge()
    monkeypatch.setattr(hacking, "imdb_judge", lambda: judge)
    monkeypatch.setattr(hacking, "WINDOW", 16)
    monkeypatch.setattr(hacking, "_rose", lambda before, now: now.step > before.step)
    monkeypatch.setattr(hacking, "_fell", lambda before, now, measure: measure == "distinct_2")
    monkeypatch.setattr(hacking, "IN_A_ROW", 1)
    return judge


def _ppo_anew(path, finished_run, config):
    if not path.exists():
        shutil.copytree(finished_run, path)
    return Run.open(path, config, resume=False, overwrite=True, stages=("ppo",))


def test_ppo_is_watched_and_the_windows_are_those_of_its_log(tmp_path, finished_run, tiny_config, small_windows):
    run = _ppo_anew(tmp_path / "run", finished_run, tiny_config)
    reports = list(steps(tiny_config, run, ("ppo",)))
    metrics, kept = (
        [json.loads(line) for line in (run.folder("ppo") / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "rollouts.jsonl")
    )
    assert [len(line["responses"]) for line in kept] == small_windows.asked == [16] * 4
    for window, line in zip(windows_of(run), metrics, strict=True):
        assert (window.step, window.responses, window.judge_positive) == (line["step"], 16, 0.5)
        assert (window.score, window.distinct_2) == (line["score"], line["distinct_2"])
        assert window.perplexity_ref == pytest.approx(line["perplexity_ref"])
    hacked = [[w for w in r.warnings if w.startswith("Reward hacking")] for r in reports]
    assert [len(found) for found in hacked] in ([0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1])  # said once


def test_stopped_anywhere_and_resumed_the_watch_is_the_same(tmp_path, finished_run, tiny_config, small_windows):
    run = _ppo_anew(tmp_path / "whole", finished_run, tiny_config)
    list(steps(tiny_config, run, ("ppo",)))
    expected = (run.folder("ppo") / "watch.jsonl").read_bytes()
    for after in (1, 2, 3, 4):
        other = _ppo_anew(tmp_path / "stopped", finished_run, tiny_config)
        for report in steps(tiny_config, other, ("ppo",)):
            if report.step == after:
                break
        list(
            steps(
                tiny_config, Run.open(other.path, tiny_config, resume=True, overwrite=False, stages=("ppo",)), ("ppo",)
            )
        )
        assert (other.folder("ppo") / "watch.jsonl").read_bytes() == expected
        assert (other.folder("ppo") / "rollouts.jsonl").read_bytes() == (
            run.folder("ppo") / "rollouts.jsonl"
        ).read_bytes()


def test_a_window_that_a_crash_left_out_is_made_up_for(tmp_path, finished_run, tiny_config, small_windows):
    run = _ppo_anew(tmp_path / "run", finished_run, tiny_config)
    for report in steps(tiny_config, run, ("ppo",)):
        if report.step == 3:
            break
    path = run.folder("ppo") / "watch.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    list(steps(tiny_config, Run.open(run.path, tiny_config, resume=True, overwrite=False, stages=("ppo",)), ("ppo",)))
    assert path.read_text().splitlines(keepends=True)[:3] == lines
    assert len(windows_of(run)) == 4


def test_a_run_that_is_no_multiple_of_the_window_leaves_the_rest_out(tmp_path, finished_run, tiny_config, monkeypatch):
    monkeypatch.setattr(hacking, "imdb_judge", Judge)
    monkeypatch.setattr(hacking, "WINDOW", 40)  # three iterations of 16 are the fewest that hold 40
    run = _ppo_anew(tmp_path / "run", finished_run, tiny_config)
    list(steps(tiny_config, run, ("ppo",)))
    assert [(w.step, w.responses) for w in windows_of(run)] == [(3, 48)]


def test_the_warning_reaches_evaluation_report_and_summary(tmp_path, finished_run, tiny_config, capsys):
    from plaudit.cli import console

    assert json.loads((finished_run / "evaluation.json").read_text())["meta"]["warnings"] == []
    shutil.copytree(finished_run, tmp_path / "run")
    windows = series(score=RISING, distinct_2=[0.8, 0.6, 0.39, 0.3, 0.25, 0.2])
    lines = "".join(json.dumps(dataclasses.asdict(w)) + "\n" for w in windows)
    (tmp_path / "run" / "ppo" / "watch.jsonl").write_text(lines)
    run = Run.existing(tmp_path / "run")
    list(steps(tiny_config, run, ("evaluation",)))
    (said,) = json.loads((run.path / "evaluation.json").read_text())["meta"]["warnings"]
    assert said.startswith("Reward hacking: from iteration 5 to 25")
    page = (run.path / "report.html").read_text()
    assert page.count("<b>Look closer.</b> Reward hacking: from iteration 5 to 25") == 1
    console.headline(run.path)
    assert "WARNING: Reward hacking: from iteration 5 to 25" in " ".join(capsys.readouterr().out.split())
