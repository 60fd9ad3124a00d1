import math

import pytest

from plaudit.training.run import Run
from recipes.real_sentences import scores


def test_scores_of_held_out_sentences_are_two_sigmoid_minus_one(finished_run, monkeypatch):
    run = Run.existing(finished_run)
    logits = {1: [0.0, 2.0], 0: [-1.0]}
    asked = []

    def reward_logits(model, tokenizer, texts):
        asked.append(sorted(texts))
        return logits[1 if len(asked) == 1 else 0]

    monkeypatch.setattr("recipes.real_sentences.reward_logits", reward_logits)
    found = scores(run)
    assert asked == [sorted(t.text for t in run.data.evaluation.labelled if t.label == label) for label in (1, 0)]
    expected = {"positive": [0.0, 2 / (1 + math.exp(-2)) - 1], "negative": [2 / (1 + math.exp(1)) - 1]}
    for kind, values in expected.items():
        assert found[f"real {kind} sentences"] == pytest.approx(values)
