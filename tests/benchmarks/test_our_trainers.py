import json

import pytest
import torch

from benchmarks import our_trainers, tasks
from benchmarks.workload import make, saved_models
from plaudit.config import build
from plaudit.training.run import Run


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    """A folder with the random models of the tiny workload."""
    folder = tmp_path_factory.mktemp("work")
    saved_models(make("tiny", folder), folder)
    return folder


def trained(work_folder, capsys, *flags):
    """The record of a training on the tiny workload."""
    shared = ["--size", "tiny", "--device", "cpu", "--work", str(work_folder)]
    our_trainers.main([*shared, "--steps", "2", "--updates", "1", "--epochs", "1", *flags])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("task", tasks.NAMES)
def test_the_steps_after_the_warm_up_are_timed_with_their_tokens(work_folder, capsys, task):
    record = trained(work_folder, capsys, "--task", task, "--dtype", "bfloat16")
    if task in tasks.SAMPLED:
        assert record["tokens"] == [32 * 15]
        assert record["settings"]["optimizer_steps"] == 8
    else:
        assert record["tokens"] == tasks.make(task, "tiny", work_folder, 3).tokens()[1:]
    assert len(record["seconds"]) == len(record["tokens"])
    assert all(seconds > 0 for seconds in record["seconds"])
    assert 1e7 < record["peak_memory"] < 1e12
    assert record["settings"]["trains"] == "all parameters"
    assert not (work_folder / "ours").exists()


def test_flags_choose_layers_and_clock(work_folder, capsys):
    record = trained(work_folder, capsys, "--task", "grpo", "--train-layers", "1", "--clock", "cpu")
    assert (record["settings"]["trains"], record["settings"]["clock"]) == ("top 1 layers", "cpu")


@pytest.mark.parametrize("task", ["sft", "reward-model", "dpo"])
def test_what_is_timed_learns(tmp_path, work_folder, task):
    """The loss of the first batch falls when the same batch comes again and again."""
    once = tasks.make(task, "tiny", work_folder, 1)
    again = tasks.Task(task, once.batches * 30, once.eos_id, once.pad_id)
    stage, open_learner = our_trainers.LEARNERS[task]
    run = Run(tmp_path, build({"device": "cpu", "engine": "plain", f"{stage}.lr": 1e-3, f"{stage}.train_layers": 0}))
    folders, watch = saved_models(make("tiny", work_folder), work_folder), our_trainers.Stopwatch(torch.device("cpu"))
    opened = []

    def remembered(*arguments):
        opened.append(open_learner(*arguments))
        return opened[0]

    before = open_learner(run, once, folders[stage == "reward_model"], watch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(our_trainers.LEARNERS, task, (stage, remembered))
        our_trainers.train_on_records(run, again, folders, watch)

    @torch.no_grad()
    def loss(learner):
        (total, count), _ = learner.loss(learner.collate(learner.batches[0]))
        return float(total / count)

    assert loss(opened[0]) < loss(before) - 0.05
