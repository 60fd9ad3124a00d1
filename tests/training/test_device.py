"""Every process of a job computes on a GPU of its own."""

import pytest
import torch

from plaudit.errors import RunError
from plaudit.training import dist, meeting
from plaudit.training.device import device_named


@pytest.fixture
def gpus(monkeypatch):
    """A function that gives this host so many GPUs; it returns a list whose last entry is torch's current one."""

    def make(number):
        current = [0]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
        return current

    return make


@pytest.fixture
def fourth_of_eight(monkeypatch):
    """This process is one that torchrun started."""
    for name, value in {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("shown", "own"), [(8, 3), (1, 0)])
def test_the_first_use_of_a_device_is_that_of_the_own_one(shown, own, gpus, fourth_of_eight):
    current = gpus(shown)  # all of the host, or the one that the scheduler shows to this process
    assert device_named("auto") == torch.device("cuda", own)
    assert current == [0, own]


@pytest.mark.parametrize(("shown", "own"), [(8, 3), (1, 0)])
def test_a_process_that_joins_its_job_takes_its_own_gpu(shown, own, gpus, fourth_of_eight, monkeypatch):
    def alone(*, serve):
        raise RunError("nobody is there")

    monkeypatch.setattr(meeting, "open_store", alone)
    current = gpus(shown)
    with pytest.raises(RunError, match="nobody is there"):
        dist.start()
    assert current == [0, own]


def test_a_process_alone_computes_where_its_program_says(gpus):
    current = gpus(8)
    torch.cuda.set_device(5)
    assert device_named("cuda") == torch.device("cuda", 5)
    assert current == [0, 5]
