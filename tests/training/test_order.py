import numpy as np

from plaudit.training.order import epoch_batches, steps_per_epoch

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


def test_every_record_comes_once_an_epoch_and_the_last_batch_is_not_dropped():
    batches = epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)
    assert len(batches) == steps_per_epoch(1003, 32) == 32
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert sorted(map(len, batches)) == [11] + [32] * 31


def test_grouping_by_length_saves_padding():
    batches = epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)
    padded = sum(LENGTHS[b].max() * len(b) for b in batches)
    shuffled = sum(LENGTHS[b].max() * len(b) for b in np.array_split(np.arange(1003), 32))
    assert padded < 0.7 * shuffled


def test_order_is_a_function_of_seed_stage_and_epoch():
    def order(**change):
        return np.concatenate(epoch_batches(LENGTHS, 32, **{"seed": 1, "stage": "sft", "epoch": 0} | change)).tolist()

    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=2)
    assert order() != order(stage="reward")


def test_long_and_short_batches_alternate_by_chance():
    means = [LENGTHS[b].mean() for b in epoch_batches(LENGTHS, 32, seed=1, stage="sft", epoch=0)]
    assert means != sorted(means)
