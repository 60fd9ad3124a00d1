"""Before and after: the same prompts, the same random numbers, two models or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plaudit.evaluation.report.words import MEASURES, bracketed, interval, written
from plaudit.lesson.style import AFTER, BEFORE, INK, Picture, picture, style
from plaudit.lesson.tables import Html, texts


def before_after(samples: Sequence[Mapping[str, Any]]) -> Html:
    """The lines of samples.jsonl: what SFT and the policy made of the same prompts, with their scores."""
    rows = [
        [s["prompt"], s["sft"].strip(), float(s["sft_score"]), s["policy"].strip(), float(s["policy_score"])]
        for s in samples
    ]
    return texts(("prompt", "before PPO", "score", "after PPO", "score"), rows)


def figures_table(models: Mapping[str, Mapping[str, Any]]) -> Html:
    """The figures of evaluation.json, a column a model.

    Args:
        models: the entries of evaluation.json by the name that is to stand above them.
    """
    rows: list[list[str | float]] = []
    for measure in MEASURES:
        cells = []
        for figures in models.values():
            value = written(figures[measure.key], measure.form)
            ends = bracketed(interval(dict(figures), "score_ci95")) if measure.key == "score_mean" else ""
            cells.append(f"{value} {ends}".strip())
        rows.append([measure.name, *cells, measure.about])
    return texts(("on the same held-out prompts", *models, "what it says"), rows)


def differences(meta: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> Html:
    """Policy minus SFT, prompt by prompt, with the paired 95% intervals of evaluation.json."""
    rows: list[list[str | float]] = []
    for name, key, ends in (
        ("score", "score_mean", "score_difference_ci95"),
        ("judged positive", "judge_positive", "judge_difference_ci95"),
    ):
        before, after = figures["sft"][key], figures["policy"][key]
        scale, unit, form = (1, "", "{:+.2f}") if key == "score_mean" else (100, " points", "{:+.0f}")
        low, high = (scale * end for end in meta[ends])
        rows.append([name, written(scale * (after - before), form) + unit, bracketed((low, high), form) + unit])
    return texts(("", "policy − SFT", "95% interval"), rows)


def scores_picture(responses: Sequence[Mapping[str, Any]]) -> Picture:
    """How scores and the judge's probabilities are spread over the lines of responses.jsonl, before and after PPO."""
    sides = (("sft", "before PPO", BEFORE), ("policy", "after PPO", AFTER))
    with style():
        figure, panels = picture(2, 2, height=3.6, sharex="col", sharey="col")
        for axes_of, (who, name, colour) in zip(panels, sides, strict=True):
            scores = np.array([line[f"{who}_score"] for line in responses], dtype=float)
            judged = np.array([line[f"{who}_judge"] for line in responses], dtype=float)
            for axes, values, low in ((axes_of[0], scores, -1), (axes_of[1], judged, 0)):
                weights = np.full(len(values), 100 / len(values))
                axes.hist(values, np.linspace(low, 1, 21), weights=weights, color=colour, rwidth=0.92)
                axes.axvline(values.mean(), color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
                mean = written(float(values.mean()), "{:.2f}")
                axes.set_title(f"{name}, mean {mean}: % of responses")
                axes.set_xlim(low, 1)
        panels[1, 0].set_xlabel("score of the reward model (−1 to 1)")
        panels[1, 1].set_xlabel("the judge's probability of positive")
    return figure
