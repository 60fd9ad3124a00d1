import numpy as np
import pytest
import torch

from plaudit.evaluation.windows import Window
from plaudit.lesson import ppo_figures


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_optimum_is_drawn_from_the_largest_kl_coef_to_the_smallest():
    optima = {1.0: [0.4, 0.6], 0.1: [0.0, 1.0], 10.0: [0.5, 0.5]}
    (axes,) = ppo_figures.optimum_by_kl_coef(["dull", "fine"], optima).axes
    lines = lines_of(axes)
    assert list(lines["dull"].get_xdata()) == [10.0, 1.0, 0.1]
    assert list(lines["fine"].get_ydata()) == [0.5, 0.6, 1.0]
    assert axes.get_xlim() == (10.0, 0.1)


def test_clipped_objective_is_flat_in_the_shaded_range():
    positive, negative = ppo_figures.clipped_objective(0.25).axes
    for axes, expected, shaded in (
        (positive, {0.5: 0.5, 1.0: 1.0, 1.25: 1.25, 1.5: 1.25}, (1.25, 1.6)),
        (negative, {0.5: -0.75, 0.75: -0.75, 1.0: -1.0, 1.5: -1.5}, (0.4, 0.75)),
    ):
        line = lines_of(axes)["clipped: what PPO maximises"]
        for ratio, objective in expected.items():
            assert np.interp(ratio, *line.get_data()) == pytest.approx(objective)
        (patch,) = axes.collections
        x = patch.get_paths()[0].vertices[:, 0]
        assert (x.min(), x.max()) == pytest.approx(shaded, abs=0.01)


def test_update_scatter_has_all_tokens_and_ten_means():
    advantages = torch.linspace(-1, 1, 80)
    (axes,) = ppo_figures.update_scatter(advantages, (0.1 * advantages).exp(), 0.2).axes
    x, y = np.asarray(axes.collections[0].get_offsets()).T
    assert len(x) == 80
    assert y == pytest.approx(np.exp(0.1 * x))
    means = axes.lines[-1].get_xydata()
    assert len(means) == 10
    assert means[0, 0] == pytest.approx(advantages[:8].mean().item())
    assert (np.diff(means[:, 1]) > 0).all()


def test_score_histograms_show_percent_and_the_mean():
    responses = [
        {"sft_score": -0.95, "sft_judge": 0.02, "policy_score": 0.51, "policy_judge": 0.97},
        {"sft_score": 0.45, "sft_judge": 0.04, "policy_score": 0.91, "policy_judge": 0.99},
    ]
    axes = ppo_figures.score_histograms(responses).axes
    for ax, first, mean, title in (  # 20 bars: scores from -1 to 1, probabilities from 0 to 1
        (axes[0], [50], -0.25, "SFT, mean −0.25"),
        (axes[1], [100], 0.03, "SFT, mean 0.03"),
        (axes[2], [0], 0.71, "PPO, mean 0.71"),
        (axes[3], [0], 0.98, "PPO, mean 0.98"),
    ):
        heights = [bar.get_height() for bar in ax.patches]
        assert len(heights) == 20
        assert sum(heights) == pytest.approx(100)
        assert heights[:1] == pytest.approx(first)
        assert ax.lines[0].get_xdata()[0] == pytest.approx(mean)
        assert ax.get_title(loc="left").startswith(title)


def point(kl, score, judge, **more):
    ends = {"kl_ci95": [kl, kl], "score_ci95": [score - 0.1, score + 0.1], "judge_ci95": [judge - 0.1, judge + 0.1]}
    return {"kl_mean": kl, "score_mean": score, "judge_positive": judge} | ends | more


def test_frontier_shows_best_of_n_and_ppo_against_kl():
    frontier = {
        "best_of_n": [point(0, 0, 0.6, n=1), point(0.2, 0.3, 0.7, n=2), point(0.6, 0.6, 0.8, n=4)],
        "ppo": [point(1.0, 0.2, 0.6), point(4.0, 0.9, 0.9)],
    }
    metrics = [{"step": i + 1, "kl": float(i), "score": i / 10} for i in range(10)]
    windows = [Window(4, 640, 0.1, 0.5, 0.6, 0.7, 14.0), Window(9, 800, 0.5, 0.5, 0.8, 0.6, 14.0)]
    score, judge = ppo_figures.frontier_figure(frontier, metrics, windows).axes
    for axes, kl, values, best in (
        (score, range(10), np.arange(10) / 10, (0, 0.3, 0.6)),
        (judge, (1.5, 6.0), (0.6, 0.8), (0.6, 0.7, 0.8)),  # KL: means of iterations 1 to 4 and 5 to 9
    ):
        lines = lines_of(axes)
        assert lines["PPO during training"].get_xdata() == pytest.approx(list(kl))
        assert lines["PPO during training"].get_ydata() == pytest.approx(list(values))
        assert [tuple(line.get_ydata()) for line in axes.lines].count(best) == 1
        assert lines["PPO at the end"].get_xydata().tolist() == [[4.0, 0.9]]
        assert axes.get_xlim()[1] > 9
        assert {text.get_text() for text in axes.texts} == {"n = 1", "n = 4"}  # a label for n = 2 would overlap


def test_training_comparison_has_one_line_per_run_and_marks_warnings():
    def metrics(factor):
        return [
            {"step": i + 1, "score": factor * i, "kl": factor * i, "distinct_2": factor * i, "perplexity_ref": None}
            for i in range(5)
        ]

    axes = ppo_figures.training_comparison({"short": metrics(1.0), "long": metrics(2.0)}, {"warning": 3}).axes
    for ax in axes[:3]:
        lines = lines_of(ax)
        assert list(lines["long"].get_xdata()) == [1, 2, 3, 4, 5]
        assert list(lines["long"].get_ydata()) == [0, 2, 4, 6, 8]
        assert list(lines["short"].get_ydata()) == [0, 1, 2, 3, 4]
        assert set(lines["warning"].get_xdata()) == {3}
    assert np.isnan(lines_of(axes[3])["long"].get_ydata()).all()
