"""A stage that ends early leaves a record of why; a finished one, and a new attempt, have none."""

import errno
import json
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import TrainingError
from plaudit.pipeline import steps
from plaudit.training import ending
from plaudit.training.ending import FILE, endings, forget, recorded
from plaudit.training.run import Run
from plaudit.training.stopping import Stopped


def never():
    return False


def failing(folder, error, done=3):
    """Reports of a stage that logs some steps and then raises."""
    (folder / "ppo").mkdir(exist_ok=True)
    with (folder / "ppo" / "metrics.jsonl").open("w") as log:
        for step in range(1, done + 1):
            log.write(f'{{"step": {step}}}\n')
            log.flush()
            yield step
    raise error


@pytest.mark.parametrize(
    ("error", "how", "reason"),
    [
        (
            TrainingError("ppo iteration 3: the loss is\nnot finite"),
            "failed",
            "ppo iteration 3: the loss is not finite",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "failed",
            "/a/b: No space left on device; free some",
        ),
        (MemoryError(), "failed", "out of memory; lower microbatch_size"),
        (RuntimeError("a\nb"), "failed", "RuntimeError: a b"),
        (KeyboardInterrupt(), "stopped", "SIGINT"),
        (Stopped(signal.SIGTERM, saved=True), "stopped", "SIGTERM"),
        (SystemExit(3), "stopped", ""),
    ],
)
def test_the_record_says_why_and_where_a_stage_ended(tmp_path, error, how, reason):
    with pytest.raises(type(error)):
        list(recorded(tmp_path, "ppo", failing(tmp_path, error), never))
    found = endings(tmp_path)["ppo"]
    assert (found.how, found.step) == (how, 3)
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason
    assert len(found.at) == len("2030-01-01 00:00:00")


def test_a_program_that_stops_asking_has_stopped_the_stage(tmp_path):
    reports = recorded(tmp_path, "ppo", failing(tmp_path, ValueError()), never)
    next(reports), next(reports)
    reports.close()
    assert endings(tmp_path)["ppo"][:3] == ("stopped", "", 2)


def test_a_failure_before_the_first_step_is_recorded_and_leaves_no_folder(tmp_path):
    def refused():
        raise TrainingError("before ppo: no")
        yield

    with pytest.raises(TrainingError):
        list(recorded(tmp_path, "ppo", refused(), never))
    assert endings(tmp_path)["ppo"].reason == "before ppo: no"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_next_attempt_removes_the_record_of_its_stage_alone(tmp_path):
    for stage in ("sft", "ppo"):
        with pytest.raises(TrainingError):
            list(recorded(tmp_path, stage, failing(tmp_path, TrainingError()), never))
    assert list(recorded(tmp_path, "ppo", iter([1, 2]), never)) == [1, 2]
    assert list(endings(tmp_path)) == ["sft"]
    list(recorded(tmp_path, "sft", iter([]), never))
    assert not (tmp_path / FILE).exists()


def test_a_disk_without_room_for_the_record_hides_no_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ending, "write_json", full)
    with pytest.raises(TrainingError, match="the first"):
        list(recorded(tmp_path, "ppo", failing(tmp_path, TrainingError("the first")), never))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys((*ending.Ending._fields, "more"), JSON))


@given(st.one_of(st.binary(max_size=20), st.dictionaries(st.sampled_from(["sft", "ppo"]), JSON | ENTRIES)))
def test_whatever_the_file_holds_it_is_read_and_removed(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / FILE).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert all(isinstance(found.reason, str) for found in endings(folder).values())
    forget(folder, ("sft", "ppo"))
    assert not (folder / FILE).exists()


def test_a_stage_that_was_stopped_after_its_work_has_finished(tmp_path):
    reports = recorded(tmp_path, "ppo", iter([1]), lambda: True)
    next(reports)
    with pytest.raises(Stopped):
        reports.throw(Stopped(signal.SIGINT))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("how", [{"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}])
def test_a_run_that_is_continued_or_begun_again_forgets_how_it_ended(tmp_path, tiny_config, how):
    run = Run.open(tmp_path / "run", tiny_config, resume=False, overwrite=False, stages=("sft",))
    reports = steps(run, ("sft",))
    next(reports)
    reports.close()
    assert endings(run.path)["sft"].how == "stopped"
    assert endings(run.path)["sft"].step == 1
    run = Run.open(run.path, tiny_config, stages=("sft",), **how)
    assert endings(run.path) == {}
    list(steps(run, ("sft",)))
    assert not (run.path / FILE).exists()


def test_reading_and_writing_records_does_without_torch():
    code = "import sys, plaudit.training.ending; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_evaluation_that_was_stopped_after_its_last_file_has_finished(tmp_path, tiny_config):
    stages = ("sft", "reward_model", "ppo", "evaluation")
    run = Run.open(tmp_path / "run", tiny_config, resume=False, overwrite=False, stages=stages)
    reports = steps(run, stages)
    while not run.complete("evaluation"):
        next(reports)
    with pytest.raises(Stopped):
        reports.throw(Stopped(signal.SIGINT))
    assert not (run.path / FILE).exists()
