import pytest
from tiny import BAD, GOOD

from plaudit.records import LabelledText
from plaudit.training.run import Run
from recipes import reward_curve


def test_fewer_training_texts_and_the_same_held_out_texts(tmp_path, finished_run, monkeypatch):
    texts = [
        LabelledText(f"film {i} {text}", label)
        for i in range(30)
        for label, text in ((1, GOOD[i % 4]), (0, BAD[i % 4]))
    ]
    monkeypatch.setattr(reward_curve, "rotten_tomatoes", lambda: texts)
    run = Run.existing(finished_run)
    half, whole = (reward_curve.measured(run, fraction, tmp_path / f"{fraction:g}") for fraction in (0.5, 1.0))
    assert half["records"] == pytest.approx(whole["records"] / 2, rel=0.3)
    assert half["held_out"] == whole["held_out"] > 0
    assert reward_curve.measured(run, 0.5, tmp_path / "0.5") == half  # read, not trained again
