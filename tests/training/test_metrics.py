import math

from plaudit.training.metrics import MetricsLog, StepReport, read_jsonl


def _report(step, loss=0.5):
    return StepReport("sft", step, 3, {"loss": loss}, {"seconds": 0.25, "tokens_per_second": 100.0})


def test_figures_and_times_are_kept_apart(tmp_path):
    log = MetricsLog(tmp_path / "sft")
    log.append(_report(1))
    assert read_jsonl(log.metrics_path) == [{"step": 1, "loss": 0.5}]
    assert read_jsonl(log.timing_path) == [{"step": 1, "seconds": 0.25, "tokens_per_second": 100.0}]


def test_what_cannot_be_computed_is_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.append(_report(1, loss=math.nan))
    assert read_jsonl(log.metrics_path) == [{"step": 1, "loss": None}]


def test_cutting_back_forgets_what_will_be_done_again(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.append(_report(step))
        log.keep(step, [f"text of {step}", "another\nline"])
    log.cut_back(2)
    assert read_jsonl(log.rollouts_path)[1:] == [{"step": 2, "responses": ["text of 2", "another\nline"]}]
    assert [line["step"] for line in read_jsonl(log.metrics_path)] == [1, 2]
    assert log.seconds() == 0.5
    log.cut_back(0)
    assert read_jsonl(log.metrics_path) == []


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl") == []
