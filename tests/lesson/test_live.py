import math

import pytest

from plaudit.lesson import live
from plaudit.lesson.live import curves, plot_live
from plaudit.training.metrics import StepReport


def report(step, total=20, stage="sft", **metrics):
    return StepReport(stage, step, total, metrics or {"loss": 1 / step}, {"seconds": 0.1})


class Output:
    """In the place of IPython's display: the figure in the cell's output, and how often it was drawn."""

    def __init__(self):
        self.figure, self.drawings = None, 0

    def display(self, figure, display_id):
        assert self.figure is None, "later drawings replace the first one"
        self.update(figure)
        return self

    def update(self, figure):
        self.figure, self.drawings = figure, self.drawings + 1


@pytest.fixture
def output(monkeypatch):
    output = Output()
    monkeypatch.setattr(live, "display", output.display)
    return output


def points(axes):
    return axes.lines[0].get_xydata().tolist()


def test_all_reports_are_yielded_and_drawn(output):
    reports = [report(i) for i in range(1, 21)]
    assert list(plot_live(reports, loss="loss (nats)")) == reports
    (axes,) = output.figure.axes
    assert points(axes) == [[i, 1 / i] for i in range(1, 21)]
    assert axes.get_title(loc="left") == "loss (nats)"


def test_draws_at_most_once_a_second(output, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: seconds[0])
    for _ in plot_live((report(i, 200) for i in range(1, 201)), loss="loss"):
        seconds[0] += 0.1
    assert output.drawings == pytest.approx(21, abs=1)  # in 20 seconds of training


def test_an_interrupted_training_is_drawn_up_to_its_last_step(output):
    def interrupted():
        yield from (report(i) for i in range(1, 8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(plot_live(interrupted(), loss="loss"))
    assert len(points(output.figure.axes[0])) == 7
    assert output.figure.get_suptitle().startswith("sft: step 7 of 20,")
    assert "left" in output.figure.get_suptitle()


def test_no_reports_draw_nothing(output):
    assert list(plot_live([], loss="loss")) == []
    assert output.figure is None


def test_one_panel_per_metric_without_missing_values():
    reports = [report(i, stage="ppo", score=i / 20, kl=math.nan if i == 3 else 2.0) for i in range(1, 21)]
    figure = curves(reports, {"score": "score", "kl": "KL (nats)", "entropy": "entropy"}, 12.0)
    score, kl, entropy, unused = figure.axes
    assert [step for step, _ in points(kl)] == [i for i in range(1, 21) if i != 3]
    assert len(points(score)) == 20
    assert not entropy.lines
    assert not unused.get_visible()
    assert kl.get_xlabel() == entropy.get_xlabel() == "iteration"
    assert score.get_xlabel() == ""
    assert figure.get_suptitle() == "ppo: step 20 of 20, 12 s"
