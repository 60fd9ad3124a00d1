"""Trackers: what they are sent, what a resumed stage does to their curves, and that none of them breaks training."""

import csv
import dataclasses
import importlib.machinery
import sys
import time
import types

import pytest

from plaudit.algorithms.ppo import ppo
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.errors import ConfigError
from plaudit.training import trackers
from plaudit.training.metrics import read_jsonl
from plaudit.training.run import STAGES, Run


class StandIn(types.ModuleType):
    """A module with the functions of wandb and trackio that we call; `fails` names one that raises or hangs."""

    def __init__(self, name, fails=""):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.fails, self.opened, self.curves, self.closed = fails, [], {}, 0

    def _do(self, what):
        if self.fails == what:
            raise ConnectionError("no route\nto the host")
        if self.fails == f"{what} hangs":
            time.sleep(60)

    def Settings(self, **settings):
        return settings

    def init(self, **how):
        self._do("init")
        print("welcome to the tracker")
        self.opened.append(how)
        points = self.curves.setdefault(how.get("id") or how["name"], [])

        def log(figures, step):
            if step > 2:
                self._do("log")
            points.append((step, dict(figures)))

        def finish():
            print("goodbye")
            self._do("finish")
            self.closed += 1

        return types.SimpleNamespace(log=log, finish=finish)


@pytest.fixture
def stand_in(monkeypatch):
    def make(name, fails=""):
        made = StandIn(name, fails)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def tracked(run, *names, **sft_settings):
    """The run with these trackers."""
    own = dataclasses.replace(run.config.sft, epochs=1, save_every=4, **sft_settings)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, track=names, sft=own))


def logged(run, stage="sft"):
    return [(line.pop("step"), line) for line in read_jsonl(run.log(stage).metrics_path)]


def stop_after(reports, step):
    for report in reports:
        if report.step == step:
            break
    reports.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_stage_continues_its_curves_without_doubled_steps(cpu_run, stand_in, capsys, name):
    module, run = stand_in(name), tracked(cpu_run, name)
    stop_after(sft(run), 7)  # the checkpoint has 4
    list(sft(run))
    (points,) = module.curves.values()
    assert points == logged(run)
    assert [how["resume"] for how in module.opened] == ["allow"] * 2
    assert module.opened[0]["config"]["sft"]["lr"] == run.config.sft.lr
    assert module.closed == 2
    assert capsys.readouterr().out == ("" if name == "trackio" else "welcome to the tracker\ngoodbye\n" * 2)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_stages_and_overwritten_stages_have_curves_of_their_own(tmp_path, bare_run, stand_in, name):
    module = stand_in(name)
    run = bare_run()
    config = dataclasses.replace(run.config, track=(name,))
    for _ in range(2):
        run = Run.open(run.path, config, resume=False, overwrite=True, stages=("ppo",))
        list(ppo(run))
    assert list(map(len, module.curves.values())) == [4, 4]
    assert [step for step, _ in next(iter(module.curves.values()))] == [1, 2, 3, 4]


def test_tensorboard_shows_every_step_once_after_a_resume(cpu_run):
    pytest.importorskip("tensorboard", reason="pip install '.[dev]' installs it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tracked(cpu_run, "tensorboard")
    stop_after(sft(run), 7)
    list(sft(run))
    found = EventAccumulator(str(run.path / "tensorboard" / "sft"))
    found.Reload()
    lines = logged(run)
    assert set(found.Tags()["scalars"]) == set(lines[0][1])
    for name in lines[0][1]:
        points = {event.step: event.value for event in found.Scalars(name)}
        assert len(points) == len(found.Scalars(name)) == len(lines)
        assert points == {step: pytest.approx(figures[name], rel=1e-6) for step, figures in lines}


def test_the_event_files_of_a_stage_go_with_its_folder(tmp_path, bare_run):
    run = bare_run()
    folder = run.path / "tensorboard" / "ppo"
    folder.mkdir(parents=True)
    Run.open(run.path, run.config, resume=False, overwrite=True, stages=("ppo",))
    assert not folder.exists()


@pytest.mark.parametrize("fails", ["init", "log", "finish", "finish hangs"])
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_fails_gives_one_warning_and_training_goes_on(
    cpu_run, stand_in, monkeypatch, capsys, fails, name
):
    monkeypatch.setattr(trackers, "_CLOSING", 0.05)
    stand_in(name, fails)
    other = stand_in("trackio" if name == "wandb" else "wandb")
    run = tracked(cpu_run, name, other.__name__)
    reports = list(sft(run))
    warnings = [warning for report in reports for warning in report.warnings]
    warnings += [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    reason = "it has not sent everything in 0.05 seconds" if "hangs" in fails else "no route to the host"
    assert len(warnings) == 1
    assert f"{name} gets no more figures of this stage ({reason}); training goes on" in warnings[0]
    assert run.complete("sft")
    (points,) = other.curves.values()
    assert points == logged(run)


def test_a_tracker_that_is_not_installed_is_refused_before_training(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = dataclasses.replace(tiny_config, track=("wandb",))
    with pytest.raises(ConfigError, match=r"^track = 'wandb': the library is not installed; run: pip install wandb$"):
        Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=STAGES)
    assert not (tmp_path / "run").exists()


def test_trackers_are_a_list_or_words_with_commas():
    for given in (["wandb", "trackio"], "wandb,trackio", ["wandb, trackio", "wandb"]):
        assert build({"track": given}).track == ("wandb", "trackio")
    assert build({}).track == ()
    with pytest.raises(ConfigError, match=r"track = 'tensorbord' \(did you mean 'tensorboard'\?\): must be one of"):
        build({"track": ["wandb", "tensorbord"]})


def as_figures(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_the_csv_file_has_the_lines_of_the_log_after_a_stop_and_at_the_end(cpu_run):
    run = tracked(cpu_run)
    path = run.folder("sft") / "metrics.csv"
    stop_after(sft(run), 7)
    assert as_figures(path) == [{"step": step, **figures} for step, figures in logged(run)]
    assert len(as_figures(path)) == 7
    list(sft(run))
    assert as_figures(path) == [{"step": step, **figures} for step, figures in logged(run)]
    assert "metrics.csv" in (run.folder("sft") / "manifest.json").read_text(encoding="utf-8")
    assert not (run.folder("sft") / trackers.FILE).exists()


def test_a_figure_that_some_steps_lack_or_that_is_not_finite_is_empty(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a": null, "b": -1e-09}\n', encoding="utf-8")
    trackers.write_csv(log)
    assert log.with_suffix(".csv").read_bytes() == b"step,a,b\n1,0.5,\n2,,-1e-09\n"


def test_a_damaged_identity_is_replaced(cpu_run, stand_in):
    module, run = stand_in("wandb"), tracked(cpu_run, "wandb")
    run.folder("sft").mkdir(parents=True)
    (run.folder("sft") / trackers.FILE).write_text('{"id":', encoding="utf-8")
    list(sft(run))
    (points,) = module.curves.values()
    assert points == logged(run)
