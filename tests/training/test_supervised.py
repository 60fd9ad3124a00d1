import dataclasses

import numpy as np
import pytest

from plaudit.algorithms.sft import sft
from plaudit.training import supervised
from plaudit.training.metrics import read_jsonl
from plaudit.training.supervised import epoch_batches, steps_per_epoch, visits

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


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


def test_every_record_comes_once_in_an_epoch_and_the_last_batch_is_kept():
    batches = epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)
    assert len(batches) == steps_per_epoch(1003, 32) == 32
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert sorted(map(len, batches)) == [11] + [32] * 31


def test_grouping_by_length_saves_padding():
    batches = epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)
    padded = sum(LENGTHS[b].max() * len(b) for b in batches)
    shuffled = sum(LENGTHS[b].max() * len(b) for b in np.array_split(np.arange(1003), 32))
    assert padded < 0.7 * shuffled


def test_the_order_depends_on_seed_stage_and_epoch():
    def order(**change):
        return np.concatenate(epoch_batches(LENGTHS, 32, **{"seed": 1, "stage": "sft", "epoch": 0} | change)).tolist()

    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=2)
    assert order() != order(stage="reward_model")


def test_batches_are_not_sorted_by_length():
    means = [LENGTHS[b].mean() for b in epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)]
    assert means != sorted(means)


def test_visits_go_on_from_any_step_as_if_uninterrupted():
    """Also in the middle of an epoch, and over the border of two."""
    whole = list(visits(LENGTHS, 32, 3, 1, "sft", 0))
    assert [step for step, _ in whole] == list(range(96))
    for first in (0, 5, 32, 95, 96):
        rest = list(visits(LENGTHS, 32, 3, 1, "sft", first))
        assert [(step, rows.tolist()) for step, rows in rest] == [(s, rows.tolist()) for s, rows in whole[first:]]
    epochs = [sorted(np.concatenate([rows for _, rows in whole[i : i + 32]])) for i in (0, 32, 64)]
    assert epochs == [list(range(1003))] * 3
