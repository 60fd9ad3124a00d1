import torch

from benchmarks import machine


def test_every_peak_is_a_rate():
    found = machine.measure(torch.device("cpu"), side=64, copied=1 << 16, seconds=0.0)
    assert found["shapes"] == {"square": [64, 64, 64], "skinny": [64, 768, 3072]}
    rates = [rate for kinds in found["flops"].values() for rate in kinds.values()]
    assert len(rates) == 4
    assert all(1e6 < rate < 1e16 for rate in [*rates, found["copy"]])
    assert found["cpu"]


def test_flops_and_bytes_are_counted_twice_for_multiply_and_add_read_and_write(monkeypatch):
    monkeypatch.setattr(machine, "best", lambda action, device, seconds: 0.5)
    cpu = torch.device("cpu")
    assert machine.matmul((2, 3, 5), torch.float32, cpu) == 120  # 60 operations in half a second
    assert machine.copy(400, cpu) == 1600
