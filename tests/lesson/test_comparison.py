import json
import re

import numpy as np
import pytest

from plaudit.lesson.comparison import before_after, differences, figures_table, scores_picture
from plaudit.training.metrics import read_jsonl


def cells(html):
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<[^>]*>", "", c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


@pytest.fixture(scope="module")
def evaluation(finished_run):
    return json.loads((finished_run / "evaluation.json").read_text())


def test_prompt_and_both_answers_stand_in_one_row():
    lines = [{"prompt": "a", "sft": " bad", "policy": " good", "sft_score": -0.5, "policy_score": 0.9}]
    assert cells(before_after(lines).text)[1] == ["a", "bad", "−0.50", "good", "+0.90"]


def test_every_figure_has_a_row_a_column_a_model_and_its_meaning(evaluation):
    head, *rows = cells(figures_table({"SFT": evaluation["sft"], "PPO": evaluation["policy"]}).text)
    assert head[1:3] == ["SFT", "PPO"]
    by_name = {row[0]: row for row in rows}
    assert len(rows) == 9
    assert by_name["KL (nats)"][2] == f"{evaluation['policy']['kl_mean']:.1f}"
    low, high = evaluation["sft"]["score_ci95"]
    assert by_name["Score"][1] == f"{evaluation['sft']['score_mean']:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
    assert all(row[-1] for row in rows)


def test_differences_come_with_their_paired_intervals():
    figures = {
        "sft": {"score_mean": 0.1, "judge_positive": 0.6},
        "policy": {"score_mean": 0.9, "judge_positive": 0.55},
    }
    meta = {"score_difference_ci95": [0.7, 0.91], "judge_difference_ci95": [-0.1, 0.02]}
    rows = cells(differences(meta, figures).text)[1:]
    assert rows[0] == ["score", "+0.80", "[+0.70, +0.91]"]
    assert rows[1] == ["judged positive", "−5 points", "[−10, +2] points"]


def test_the_spread_of_both_models_is_drawn_in_percent_with_its_mean(finished_run):
    lines = read_jsonl(finished_run / "responses.jsonl")
    axes = scores_picture(lines).axes
    keys = ("sft_score", "sft_judge", "policy_score", "policy_judge")
    for ax, key in zip(axes, keys, strict=True):
        assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(100)
        assert ax.lines[0].get_xdata()[0] == pytest.approx(np.mean([line[key] for line in lines]))
    assert axes[0].get_title(loc="left").startswith("before PPO")
    assert axes[2].get_title(loc="left").startswith("after PPO")
