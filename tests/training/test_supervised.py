import dataclasses

import pytest

from plaudit.algorithms.sft import sft
from plaudit.training import supervised
from plaudit.training.metrics import read_jsonl
from plaudit.training.order import steps_per_epoch


def with_sft(run, **settings):
    return dataclasses.replace(
        run, config=dataclasses.replace(run.config, sft=dataclasses.replace(run.config.sft, **settings))
    )


def test_the_learning_rate_of_every_step_rises_during_warmup_and_falls_to_zero(cpu_run, monkeypatch):
    used, step = [], supervised.step

    def watched(optimizer, *rest):
        used.append({group["lr"] for group in optimizer.param_groups})
        return step(optimizer, *rest)

    monkeypatch.setattr(supervised, "step", watched)
    reports = list(sft(cpu_run))
    shares = [rate / cpu_run.config.sft.lr for rates in used for rate in rates]
    assert len(shares) == len(reports) == len(used)  # one rate for all groups, at every step
    peak, last = shares.index(1.0), len(shares) - 1
    assert 0 < peak < 0.2 * last
    assert shares[: peak + 1] == pytest.approx([(i + 1) / (peak + 1) for i in range(peak + 1)])
    assert shares[peak:] == pytest.approx([(last + 1 - i) / (last + 1 - peak) for i in range(peak, last + 1)])


def test_every_step_is_reported_and_logged_and_a_checkpoint_kept(cpu_run):
    reports = list(sft(cpu_run))
    total = steps_per_epoch(cpu_run.summary("sft")["texts"], 16) * 3
    assert [report.step for report in reports] == list(range(1, total + 1))
    assert {report.total for report in reports} == {total}
    log = cpu_run.log("sft")
    for report, line in zip(reports, read_jsonl(log.metrics_path), strict=True):
        assert line == {"step": report.step, **report.metrics}
    assert len(read_jsonl(log.timing_path)) == total
    assert max(cpu_run.checkpoints("sft").weights()) == total


def test_microbatches_give_the_run_of_whole_batches(tmp_path, cpu_run):
    """The same figures at every step, although every batch of 16 is split into 5, 5, 5 and 1."""
    logs = []
    for size in (0, 5):
        run = with_sft(dataclasses.replace(cpu_run, path=tmp_path / str(size)), microbatch_size=size, epochs=1)
        logs.append([report.metrics for report in sft(run)])
    for whole, parts in zip(*logs, strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)
    assert logs[0][-1]["loss"] < 0.8 * logs[0][0]["loss"]


@pytest.mark.parametrize("interrupted_after", [7, 10])
def test_an_interrupted_run_goes_on_byte_for_byte(tmp_path, cpu_run, interrupted_after):
    whole = dataclasses.replace(cpu_run, path=tmp_path / "whole")
    list(sft(with_sft(whole, epochs=1, save_every=4)))
    broken = with_sft(dataclasses.replace(cpu_run, path=tmp_path / "broken"), epochs=1, save_every=4)
    reports = sft(broken)
    for _ in range(interrupted_after):
        next(reports)
    reports.close()
    resumed = list(sft(broken))
    assert resumed[0].step == 4 * (interrupted_after // 4) + 1
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (broken.folder("sft") / name).read_bytes() == (whole.folder("sft") / name).read_bytes()
