import math

import pytest

from plaudit.errors import RunError
from plaudit.training.metrics import MetricsLog, StepReport, read_jsonl


def make_report(step, loss=0.5):
    return StepReport("sft", step, 3, {"loss": loss}, {"seconds": 0.25, "tokens_per_second": 100.0})


def test_metrics_and_times_are_in_separate_files(tmp_path):
    log = MetricsLog(tmp_path / "sft")
    log.append(make_report(1))
    assert read_jsonl(log.metrics_path) == [{"step": 1, "loss": 0.5}]
    assert read_jsonl(log.timing_path) == [{"step": 1, "seconds": 0.25, "tokens_per_second": 100.0, "total": 3}]


def test_a_figure_that_is_not_finite_is_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.append(make_report(1, loss=math.nan))
    assert read_jsonl(log.metrics_path) == [{"step": 1, "loss": None}]


def test_steps_after_a_position_are_removed(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.append(make_report(step))
        log.log_responses(step, response=[f"text of {step}", "another\nline"], kl=[0.5, math.inf])
        if step == 2:
            position = log.position()
    log.cut_back(2, position)
    assert read_jsonl(log.rollouts_path)[2:] == [
        {"iteration": 2, "response": "text of 2", "kl": 0.5},
        {"iteration": 2, "response": "another\nline", "kl": None},
    ]
    assert [line["step"] for line in read_jsonl(log.metrics_path)] == [1, 2]
    assert log.seconds() == 0.5
    assert log.position() == position
    log.cut_back(0, {})
    assert read_jsonl(log.metrics_path) == []
    assert log.position() == {}


@pytest.mark.parametrize("content", ["{", "3\n", '{"a": 1}\n{"a":', "[1]\n", "\n"])
def test_a_damaged_log_is_named(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(RunError, match=r"metrics\.jsonl: damaged: .+; put the file back"):
        read_jsonl(path)


def test_a_missing_file_has_no_lines(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl") == []
