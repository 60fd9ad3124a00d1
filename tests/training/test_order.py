import numpy as np

from plaudit.training.order import epoch_batches, steps_per_epoch, visits

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


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
