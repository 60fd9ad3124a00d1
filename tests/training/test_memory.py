import pytest
import torch

from plaudit.training import memory

CPU = torch.device("cpu")


def test_memory_that_is_written_to_is_held_and_lowers_what_is_free():
    if not memory.held(CPU):
        pytest.skip("the system does not say")
    before, peak = memory.held(CPU), memory.peak(CPU)
    some = torch.ones(2**26)  # 256 MiB
    assert 200 * 2**20 < memory.held(CPU) - before < 400 * 2**20
    del some
    assert memory.held(CPU) - before < 50 * 2**20
    assert memory.peak(CPU) >= max(peak, before + 200 * 2**20)


def test_free_memory_is_less_than_all_memory():
    free = memory.free(CPU)
    assert free is None or 0 < free < 2**45


def test_a_system_that_does_not_say_is_no_error(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert memory.held(CPU) == 0
    monkeypatch.setattr("os.sysconf", missing)
    assert memory.free(CPU) is None
