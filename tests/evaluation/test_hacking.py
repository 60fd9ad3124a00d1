import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from plaudit.cli import console
from plaudit.evaluation import hacking
from plaudit.evaluation import windows as window_module
from plaudit.evaluation.windows import Part, Window, hacking_warnings, windows_of
from plaudit.pipeline import steps
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import Run

USUAL = {"score": 0.2, "judge_positive": 0.8, "distinct_2": 0.8, "perplexity_ref": 15.0}


def series(**measures: list[float]) -> list[Window]:
    """Windows of 640 responses, five iterations each; measures that are not given stay constant.

    By default scores are -1 or 1: no scores with the same mean have a larger standard deviation.
    """
    windows = []
    for i, row in enumerate(zip(*measures.values(), strict=True)):
        given = USUAL | dict(zip(measures, row, strict=True))
        given = {"score_std": max(0.0, 1 - given["score"] ** 2) ** 0.5} | given
        windows.append(Window(5 * (i + 1), 640, **given))
    return windows


RISING = [0.2, 0.5, 0.8, 0.9, 0.95, 0.97]


@pytest.mark.parametrize(
    ("measure", "values", "iteration"),
    [
        ("judge_positive", [0.8, 0.78, 0.7, 0.65, 0.6, 0.5], 25),  # the third window below is at 25
        ("distinct_2", [0.8, 0.6, 0.39, 0.3, 0.25, 0.2], 25),
        ("perplexity_ref", [15, 18, 24, 30, 34, 35], 25),
        ("perplexity_ref", [15, 12, 9, 8, 7, 7], 25),
    ],
)
def test_a_rising_score_with_a_worsening_measure_gives_a_warning(measure, values, iteration):
    (warning,) = hacking_warnings(series(score=RISING, **{measure: values}))
    assert (warning.measure, warning.before.step, warning.now.step) == (measure, 5, iteration)


def test_the_warning_names_both_windows_and_the_remedy():
    (warning,) = hacking_warnings(series(score=RISING, distinct_2=[0.8, 0.6, 0.39, 0.3, 0.25, 0.2]))
    assert warning.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Reward hacking: from iteration 5 to 25 the score rose from 0.20 to 0.95 while 'Distinct pairs' went from 80 % "
        "to 25 %. The score is not a success; raise kl_coef or train less."
    )


def test_a_judge_that_falls_from_its_best_gives_a_warning_even_above_its_first_value():
    """Gao et al. 2022: the gold score rises with the proxy, then falls while the proxy continues to rise."""
    (warning,) = hacking_warnings(series(score=RISING, judge_positive=[0.6, 0.8, 0.9, 0.8, 0.78, 0.75]))
    assert (warning.before.step, warning.now.step) == (15, 30)


def test_warnings_come_in_order_of_time():
    found = hacking_warnings(
        series(score=RISING, judge_positive=[0.8, 0.8, 0.8, 0.6, 0.6, 0.6], distinct_2=[0.8, 0.3, 0.3, 0.3, 0.3, 0.3])
    )
    assert [(w.measure, w.now.step) for w in found] == [("distinct_2", 20), ("judge_positive", 30)]


def parts(values, std=1.0, weight=0.5):
    return [{"polite": Part(value, std, weight)} for value in values]


@pytest.mark.parametrize(
    ("values", "std", "weight"),
    [
        ([0.9, 0.8, 0.5, 0.4, 0.3, 0.2], 0.4, 0.5),  # a rule that is kept less and less
        ([2.0, 3.0, 1.0, 0.5, 0.0, -1.0], 1.0, 2.0),  # from its best, in the second window
        ([5, 9, 20, 25, 30, 40], 8.0, -0.1),  # more of what is penalised
        ([0.9, 0.8, 0.5, 0.4, 0.3, 0.2], 0.4, 0.0),  # not trained for, only watched
    ],
)
def test_a_part_of_the_reward_that_falls_while_the_score_rises_gives_a_warning(values, std, weight):
    (warning,) = hacking_warnings(series(score=RISING, parts=parts(values, std, weight)))
    assert (warning.measure, warning.now.step) == ("score.polite", 25)
    assert "while 'polite (part of the reward)' went from" in warning.text
    assert "give this part more weight" in warning.text


@pytest.mark.parametrize(
    ("values", "std", "weight"),
    [
        ([0.2, 0.4, 0.6, 0.7, 0.8, 0.9], 0.4, 0.5),  # it rises too
        ([0.9, 0.8, 0.7, 0.65, 0.65, 0.65], 0.4, 0.5),  # the price of a trade-off
        ([5, 9, 20, 25, 30, 40], 8.0, 0.1),  # more of what is rewarded
        ([9, 8, 8, 9, 8, 9], 30.0, 1.0),
    ],
)
def test_a_part_that_rises_or_falls_a_little_gives_no_warning(values, std, weight):
    assert hacking_warnings(series(score=RISING, parts=parts(values, std, weight))) == []


def test_noise_in_a_part_gives_no_warning():
    draw = np.random.default_rng(0)
    for _ in range(100):
        values = draw.normal(0, 1 / 640**0.5, 20)
        windows = series(score=np.linspace(0, 0.9, 20).tolist(), parts=parts(values.tolist()))
        assert hacking_warnings(windows) == []


@pytest.mark.parametrize(
    "measures",
    [
        {"judge_positive": [0.6, 0.7, 0.8, 0.9, 0.93, 0.96]},  # both rise
        {"distinct_2": [0.8, 0.74, 0.7, 0.66, 0.62, 0.6]},  # the mild decrease of a healthy PPO run
        {"perplexity_ref": [15, 14, 13.5, 13, 13, 12.8]},
        {"judge_positive": [0.8, 0.77, 0.76, 0.76, 0.77, 0.76]},  # less than the 5 points that are material
        {"distinct_2": [0.8, 0.3, 0.3, 0.7, 0.3, 0.3]},  # never three in a row
    ],
)
def test_healthy_runs_give_no_warning(measures):
    assert hacking_warnings(series(score=RISING, **measures)) == []


def test_a_fall_without_a_rising_score_gives_no_warning():
    score = [0.2, 0.21, 0.19, 0.2, 0.15, 0.1]
    assert hacking_warnings(series(score=score, distinct_2=[0.8, 0.3, 0.2, 0.2, 0.1, 0.1])) == []


def test_a_score_with_a_wide_spread_must_rise_further():
    """A reward function may have any scale: noise is measured by the spread of the scores."""
    falling = [0.8, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert hacking_warnings(series(score=RISING, distinct_2=falling))
    assert not hacking_warnings(series(score=RISING, score_std=[10.0] * 6, distinct_2=falling))
    wide = series(score=[100 * s for s in RISING], score_std=[80.0] * 6, distinct_2=falling)
    assert [w.measure for w in hacking_warnings(wide)] == ["distinct_2"]


def test_short_series_give_no_warning():
    assert hacking_warnings([]) == []
    assert hacking_warnings(series(score=RISING[:3], distinct_2=[0.8, 0.1, 0.1])) == []


def test_sampling_noise_gives_no_warning():
    """200 runs of 20 windows of 640 responses whose judge (80 %) and score (0.2) do not change."""
    draw = np.random.default_rng(0)
    judge = draw.binomial(640, 0.8, (200, 20)) / 640
    score = 2 * draw.binomial(640, 0.6, (200, 20)) / 640 - 1  # scores of -1 and 1, the widest spread there is
    runs = zip(score.tolist(), judge.tolist(), strict=True)
    assert not any(hacking_warnings(series(score=s, judge_positive=j)) for s, j in runs)


class Judge:
    """Gives the texts of each call probabilities from 0 to 1, so that half of them are positive."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def positive(self, texts, prompts):
        assert len(texts) == len(prompts)
        self.asked.append(len(texts))
        return np.linspace(0, 1, len(texts))


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of one tiny iteration, and a warning about distinct_2 from the second one on."""
    judge = Judge()
    monkeypatch.setattr(hacking, "judge_for", lambda *data: (judge, ""))
    monkeypatch.setattr(hacking, "WINDOW", 16)
    monkeypatch.setattr(window_module, "_rose", lambda before, now: now.step > before.step)
    monkeypatch.setattr(window_module, "_fell", lambda before, now, measure: measure == "distinct_2")
    monkeypatch.setattr(window_module, "IN_A_ROW", 1)
    return judge


def without_ppo(path, finished_run, config) -> Run:
    """A copy of the finished run in which PPO must be trained again."""
    if not path.exists():
        shutil.copytree(finished_run, path)
    return Run.open(path, config, resume=False, overwrite=True, stages=("ppo",))


def resumed(run) -> Run:
    return Run.open(run.path, run.config, resume=True, overwrite=False, stages=("ppo",))


def test_the_windows_are_means_of_the_logged_iterations(tmp_path, finished_run, tiny_config, small_windows):
    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    reports = list(steps(run, ("ppo",)))
    metrics, rollouts = (read_jsonl(run.folder("ppo") / name) for name in ("metrics.jsonl", "rollouts.jsonl"))
    assert len(rollouts) == 64
    assert small_windows.asked == [16] * 4
    for window, line in zip(windows_of(run.folder("ppo")), metrics, strict=True):
        assert (window.step, window.responses, window.judge_positive) == (line["step"], 16, 0.5)
        assert (window.score, window.distinct_2) == (line["score"], line["distinct_2"])
        assert window.score_std == pytest.approx(line["score_std"])
        assert window.perplexity_ref == pytest.approx(line["perplexity_ref"])
    warnings = [[w for w in r.warnings if w.startswith("Reward hacking")] for r in reports]
    assert sum(map(len, warnings)) == 1


def test_a_stopped_and_resumed_run_leaves_the_same_files(tmp_path, finished_run, tiny_config, small_windows):
    run = without_ppo(tmp_path / "whole", finished_run, tiny_config)
    list(steps(run, ("ppo",)))
    for after in (1, 3):
        other = without_ppo(tmp_path / "stopped", finished_run, tiny_config)
        for report in steps(other, ("ppo",)):
            if report.step == after:
                break
        list(steps(resumed(other), ("ppo",)))
        for name in ("watch.jsonl", "rollouts.jsonl"):
            assert (other.folder("ppo") / name).read_bytes() == (run.folder("ppo") / name).read_bytes()


def test_windows_that_a_crash_lost_are_computed_again(tmp_path, finished_run, tiny_config, small_windows):
    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    for report in steps(run, ("ppo",)):
        if report.step == 3:
            break
    path = run.folder("ppo") / "watch.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    list(steps(resumed(run), ("ppo",)))
    assert path.read_text().splitlines(keepends=True)[:3] == lines
    assert len(windows_of(run.folder("ppo"))) == 4


def test_iterations_that_do_not_fill_a_window_are_left_out(tmp_path, finished_run, tiny_config, monkeypatch):
    monkeypatch.setattr(hacking, "judge_for", lambda *data: (Judge(), ""))
    monkeypatch.setattr(hacking, "WINDOW", 40)  # three iterations of 16 responses are the fewest that reach 40
    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    list(steps(run, ("ppo",)))
    assert [(w.step, w.responses) for w in windows_of(run.folder("ppo"))] == [(3, 48)]


def test_the_warning_is_in_evaluation_report_and_summary(tmp_path, finished_run, capsys):
    assert json.loads((finished_run / "evaluation.json").read_text())["meta"]["warnings"] == []
    shutil.copytree(finished_run, tmp_path / "run")
    windows = series(score=RISING, distinct_2=[0.8, 0.6, 0.39, 0.3, 0.25, 0.2])
    lines = "".join(json.dumps(dataclasses.asdict(w)) + "\n" for w in windows)
    (tmp_path / "run" / "ppo" / "watch.jsonl").write_text(lines)
    run = Run.existing(tmp_path / "run")
    list(steps(run, ("evaluation",)))
    (warning,) = json.loads((run.path / "evaluation.json").read_text())["meta"]["warnings"]
    assert warning.startswith("Reward hacking: from iteration 5 to 25")
    page = (run.path / "report.html").read_text()
    assert page.count("Reward hacking: from iteration 5 to 25") == 1
    console.headline(run.path)
    assert "WARNING: Reward hacking: from iteration 5 to 25" in " ".join(capsys.readouterr().out.split())


FIGURES = ["score", "score_std", "distinct_2", "perplexity_ref"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("rows", [[0], [1, 2], [0, 1, 2, 3]])
def test_a_figure_that_is_null_is_left_out_of_the_windows(
    tmp_path, finished_run, tiny_config, small_windows, name, rows
):
    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    for file in ("metrics.jsonl", "rollouts.jsonl"):
        run.folder("ppo").mkdir(exist_ok=True)
        shutil.copy(finished_run / "ppo" / file, run.folder("ppo") / file)
    path = run.folder("ppo") / "metrics.jsonl"
    lines = read_jsonl(path)
    for row in rows:
        lines[row][name] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    windows = hacking._Watch(run, "ppo", {}).windows(len(lines))
    assert windows == windows_of(run.folder("ppo"))
    size = len(lines) // len(windows)
    for i, window in enumerate(windows):
        known = [line[name] for line in lines[i * size : (i + 1) * size] if line[name] is not None]
        assert (getattr(window, name) is None) == (not known)
    hacking_warnings(windows)


@pytest.mark.parametrize("name", [*FIGURES, "judge_positive"])
def test_a_window_without_a_figure_neither_raises_nor_hides_the_warning(name):
    windows = series(score=[0.2, *RISING], distinct_2=[0.8, 0.8, 0.6, 0.39, 0.3, 0.25, 0.2])
    windows[1] = dataclasses.replace(windows[1], **{name: None})
    (warning,) = hacking_warnings(windows)
    assert (warning.measure, warning.now.step) == ("distinct_2", 30)
    never = [dataclasses.replace(window, **{name: None}) for window in windows]
    assert len(hacking_warnings(never)) == (name in ("perplexity_ref", "judge_positive"))


def test_the_parts_of_a_reward_are_in_the_windows(tmp_path, finished_run, tiny_config, small_windows):
    def length(prompts, responses):
        return [len(response) for response in responses]

    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    list(steps(run, ("ppo",), {length: -0.5, "model": 2}))
    rollouts = read_jsonl(run.folder("ppo") / "rollouts.jsonl")
    windows = windows_of(run.folder("ppo"))
    assert len(windows) == 4
    for window in windows:
        values = [line["score.length"] for line in rollouts if line["iteration"] == window.step]
        assert window.parts["length"] == pytest.approx((np.mean(values), np.std(values), -0.5))
        assert window.parts["model"].weight == 2


def test_a_line_of_a_log_is_read_once(tmp_path, finished_run, tiny_config, small_windows, monkeypatch):
    """Otherwise the time of a long run grows with the square of its iterations."""
    read = []

    def loads(text):
        read.append(text)
        return json.loads(text)

    monkeypatch.setattr(hacking, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    run = without_ppo(tmp_path / "run", finished_run, tiny_config)
    watch = hacking._Watch(run, "ppo", {})
    shutil.copytree(finished_run / "ppo", run.folder("ppo"), dirs_exist_ok=True)
    (run.folder("ppo") / "watch.jsonl").unlink(missing_ok=True)
    monkeypatch.setattr(hacking, "windows_of", lambda folder: [])
    for done in range(5):
        watch.windows(done)
    lines = 4 + 4 * 16
    assert len(set(read)) == lines
    assert len(read) <= lines + 2 * 3  # the first line after a window is looked at twice
