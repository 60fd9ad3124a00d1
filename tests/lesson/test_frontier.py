import numpy as np
import pytest

from plaudit.evaluation.hacking import Window
from plaudit.lesson.frontier import beside_best_of_n, judged_way

METRICS = [{"step": i + 1, "kl": float(i), "score": i / 10} for i in range(10)]
WINDOWS = [Window(4, 640, 0.1, 0.6, 0.7, 14.0), Window(9, 800, 0.5, 0.8, 0.6, 14.0)]


def point(kl, score, judge, **more):
    ends = {"kl_ci95": [kl, kl], "score_ci95": [score - 0.1, score + 0.1], "judge_ci95": [judge - 0.1, judge + 0.1]}
    return {"kl_mean": kl, "score_mean": score, "judge_positive": judge} | ends | more


CONTENT = {
    "best_of_n": [point(0, 0, 0.6, n=1), point(0.2, 0.3, 0.7, n=2), point(0.6, 0.6, 0.8, n=4)],
    "ppo": [point(1.0, 0.2, 0.6), point(4.0, 0.9, 0.9)],
}


def test_the_judge_s_share_stands_at_the_mean_kl_of_its_own_iterations():
    kl, share = judged_way(METRICS, WINDOWS)
    assert kl == pytest.approx([1.5, 6.0])
    assert share == pytest.approx([0.6, 0.8])


def test_best_of_n_the_way_and_its_end_are_drawn_against_kl():
    score, judge = beside_best_of_n(CONTENT, METRICS, WINDOWS).axes
    for axes, way, best, end in (
        (score, (range(10), np.arange(10) / 10), (0, 0.3, 0.6), 0.9),
        (judge, ((1.5, 6.0), (0.6, 0.8)), (0.6, 0.7, 0.8), 0.9),
    ):
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["PPO while it trains"].get_xdata() == pytest.approx(list(way[0]))
        assert lines["PPO while it trains"].get_ydata() == pytest.approx(list(way[1]))
        drawn = [line for line in axes.lines if line.get_label().startswith("_")]
        assert drawn[0].get_ydata() == pytest.approx(best)
        assert drawn[1].get_xdata() == pytest.approx([4.0])
        assert drawn[1].get_ydata() == pytest.approx([end])
        assert lines["PPO at its end"].get_ydata() == pytest.approx([end])
        assert axes.get_xlim()[1] > 9
        assert {text.get_text() for text in axes.texts} == {"n = 1", "n = 4"}  # and not n = 2, which would be crowded
