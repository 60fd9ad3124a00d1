import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.lesson import methods_figures as figures


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0.1, 10))
def test_noise_is_the_root_of_the_summed_variances_and_does_not_depend_on_the_mean(seed, size, scale):
    gradients = scale * np.random.default_rng(seed).standard_normal((400, size))
    here, there = figures.estimates(gradients), figures.estimates(gradients + 7)
    assert here.mean == pytest.approx(gradients.mean(0))
    assert there.mean == pytest.approx(here.mean + 7)
    assert here.half == pytest.approx(1.96 * gradients.std(0, ddof=1) / 20)
    assert here.noise == pytest.approx(np.sqrt(gradients.var(0).sum()))
    assert there.noise == pytest.approx(here.noise)
    assert there.noise_half == pytest.approx(here.noise_half)


def test_intervals_of_mean_and_noise_contain_the_truth_in_95_of_100_cases():
    draw, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        found = figures.estimates(2 + draw.standard_normal((300, 1)))
        hits += abs(found.mean[0] - 2) < found.half[0], abs(found.noise - 1) < found.noise_half
    assert (abs(hits / 400 - 0.95) < 0.04).all()


def test_gradients_that_do_not_vary_have_no_noise():
    found = figures.estimates(np.full((10, 2), 3.0))
    assert (found.half.tolist(), found.noise, found.noise_half) == ([0, 0], 0, 0)


def test_routes_show_the_mean_of_every_entry_and_the_noise():
    found = {
        "one": figures.Estimates(np.array([0.1, -0.2]), np.array([0.01, 0.02]), 0.5, 0.1),
        "two": figures.Estimates(np.array([0.3, 0.0]), np.array([0.03, 0.04]), 0.25, 0.1),
    }
    above, below = figures.routes(np.array([0.2, -0.1]), found, ["eos", "film"]).axes
    exact = above.collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in exact] == [[0.2, 0.2], [-0.1, -0.1]]
    drawn = [container.lines[0].get_xydata() for container in above.containers]
    assert [points[:, 1].tolist() for points in drawn] == [[0.1, -0.2], [0.3, 0.0]]
    for place, segment in enumerate(exact):  # each point is over the line of its own entry
        assert all(segment[0, 0] < points[place, 0] < segment[1, 0] for points in drawn)
    assert [bar.get_width() for bar in below.patches] == [0.5, 0.25]
    assert [text.get_text().strip() for text in below.texts] == ["one", "two"]
    assert [label.get_text() for label in above.get_xticklabels()] == ["eos", "film"]


def test_weight_of_a_prompt_has_a_line_for_each_method_in_percent():
    (axes,) = figures.weight_of_a_prompt([0.1, 0.5], {"plain": [0.36, 1.0], "divided": [0.6, 1.0]}).axes
    lines = lines_of(axes)
    assert lines["plain"].get_xydata().tolist() == [[10, 0.36], [50, 1]]
    assert lines["divided"].get_xydata().tolist() == [[10, 0.6], [50, 1]]


def test_small_frontier_shows_optimum_best_of_n_and_other_policies():
    optima, best = [(0.0, 1.0), (4.0, 2.0)], {1: (0.0, 1.0), 2: (0.2, 1.2), 8: (1.2, 1.5)}
    (axes,) = figures.small_frontier(optima, best, {"ours": (5.0, 1.1)}).axes
    lines = lines_of(axes)
    assert lines["optimum, for every kl_coef"].get_xydata().tolist() == [[0, 1], [4, 2]]
    assert lines["best-of-n"].get_xydata().tolist() == [[0, 1], [0.2, 1.2], [1.2, 1.5]]
    assert lines["ours"].get_xydata().tolist() == [[5, 1.1]]
    assert [text.get_text() for text in axes.texts] == ["n = 2", "n = 8"]
    assert axes.get_xlim()[1] > 5


def point(kl, score, judge, **more):
    ends = {"kl_ci95": [kl, kl], "score_ci95": [score - 0.1, score + 0.1]}
    ends["judge_ci95"] = None if judge is None else [judge - 0.1, judge + 0.1]
    return {"kl_mean": kl, "score_mean": score, "judge_positive": judge} | ends | more


def content(judge=0.7):
    trained = [("ppo", 1, 0.5), ("ppo", 2, 0.6), ("best_of_n", 1, 0.3)]
    return {
        "best_of_n": [point(0.0, 0.1, judge, n=1), point(0.2, 0.4, judge, n=2)],
        "points": [
            point(step * kl, step * kl / 2, judge, method=method, seed=seed, step=step)
            for method, seed, kl in trained
            for step in (1, 2)
        ],
    }


def test_methods_figure_joins_the_policies_of_each_training_from_the_sft_model_on():
    score, judge = figures.methods_figure(content()).axes
    drawn = [line.get_xydata().tolist() for line in score.lines]
    for path in (
        [[0, 0.1], [0.5, 0.25], [1.0, 0.5]],
        [[0, 0.1], [0.6, 0.3], [1.2, 0.6]],
        [[0, 0.1], [0.3, 0.15], [0.6, 0.3]],
        [[0, 0.1], [0.2, 0.4]],  # best-of-n, sampled
    ):
        assert drawn.count(path) == 1
    assert [drawn.count([end]) for end in ([1.0, 0.5], [1.2, 0.6], [0.6, 0.3])] == [1, 1, 1]
    ends = [segment.tolist() for lines in score.collections[1:] for segment in lines.get_segments()]
    assert [[1.0, pytest.approx(0.4)], [1.0, pytest.approx(0.6)]] in ends
    names = [line.get_label() for line in score.lines if not line.get_label().startswith("_")]
    assert names == ["best-of-n, sampled", "PPO", "best-of-n, imitated"]
    assert score.get_xlim()[1] > 1.2
    assert [text.get_text() for text in score.texts] == ["2"]
    assert [0.6, 0.7] in [line.get_xydata()[-1].tolist() for line in judge.lines if len(line.get_xydata())]


def test_methods_figure_has_no_panel_of_a_judge_where_none_fits():
    (axes,) = figures.methods_figure(content(judge=None)).axes
    assert axes.get_title(loc="left").startswith("score")
