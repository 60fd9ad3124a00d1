import math

import pytest

from plaudit.lesson import live as room
from plaudit.lesson.live import curves, live
from plaudit.training.metrics import StepReport


def report(step, total=20, stage="sft", **metrics):
    return StepReport(stage, step, total, metrics or {"loss": 1 / step}, {"seconds": 0.1})


class Screen:
    """Stands for IPython's display: what is on it, and how often it changed."""

    def __init__(self):
        self.shown, self.drawings = None, 0

    def display(self, what, display_id):
        assert display_id is True
        assert self.shown is None, "one place on the page, updated"
        self.update(what)
        return self

    def update(self, what):
        self.shown, self.drawings = what, self.drawings + 1


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(room, "display", screen.display)
    return screen


def line(axes):
    return axes.lines[0].get_xydata().tolist()


def test_every_report_passes_and_the_last_picture_has_them_all(screen):
    reports = [report(i) for i in range(1, 21)]
    assert list(live(reports, loss="loss (nats)")) == reports
    (axes,) = screen.shown.axes
    assert line(axes) == [[i, 1 / i] for i in range(1, 21)]
    assert axes.get_title(loc="left") == "loss (nats)"
    assert screen.drawings == 2  # the first at once, then none for a second, and the last


def test_it_draws_at_most_once_a_second_and_little_of_the_time(screen, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(room.time, "perf_counter", lambda: clock[0])

    def drawn_in(cost):
        screen.shown, screen.drawings = None, 0
        real = room.curves

        def slow(*args):
            clock[0] += cost
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(room, "curves", slow)
            for _ in live((report(i, 200) for i in range(1, 201)), loss="loss"):
                clock[0] += 0.1  # 20 seconds of training
        return screen.drawings

    assert drawn_in(0.0) == pytest.approx(21, abs=1)
    assert drawn_in(0.15) == pytest.approx(5, abs=1)  # not more often than every five seconds


def test_stopped_half_way_the_picture_shows_how_far_it_came(screen):
    def stopped():
        yield from (report(i) for i in range(1, 8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in live(stopped(), loss="loss"):
            pass
    assert len(line(screen.shown.axes[0])) == 7
    assert screen.shown.get_suptitle().startswith("sft: step 7 of 20,")
    assert "left" in screen.shown.get_suptitle()


def test_a_stage_without_a_step_shows_nothing(screen):
    assert list(live([], loss="loss")) == []
    assert screen.shown is None


def test_a_panel_for_each_metric_and_gaps_where_one_is_missing():
    reports = [report(i, stage="ppo", score=i / 20, kl=math.nan if i == 3 else 2.0) for i in range(1, 21)]
    figure = curves(reports, {"score": "score", "kl": "KL (nats)", "entropy": "entropy"})
    score, kl, entropy, spare = figure.axes
    assert [point[0] for point in line(kl)] == [i for i in range(1, 21) if i != 3]
    assert len(line(score)) == 20
    assert not entropy.lines
    assert not spare.get_visible()
    assert kl.get_xlabel() == entropy.get_xlabel() == "iteration"
    assert score.get_xlabel() == ""
    assert figure.get_suptitle() == "ppo: step 20 of 20"
