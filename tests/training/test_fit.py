import pytest

from plaudit.algorithms.sft import sft
from plaudit.training import optimizer as optim


def test_the_learning_rate_of_every_step_rises_over_the_warm_up_and_falls_to_nothing(cpu_run, tiny_config, monkeypatch):
    used, step = [], optim.step

    def watched(loss, model, optimizer, *rest):
        used.append({group["lr"] for group in optimizer.param_groups})
        return step(loss, model, optimizer, *rest)

    monkeypatch.setattr(optim, "step", watched)
    reports = list(sft(tiny_config, cpu_run))
    shares = [rate / tiny_config.sft.lr for rates in used for rate in rates]
    assert len(shares) == len(reports) == len(used)  # one rate for all groups, at every step
    peak, last = shares.index(1.0), len(shares) - 1
    assert 0 < peak < 0.2 * last
    assert shares[: peak + 1] == pytest.approx([(i + 1) / (peak + 1) for i in range(peak + 1)])
    assert shares[peak:] == pytest.approx([(last + 1 - i) / (last + 1 - peak) for i in range(peak, last + 1)])
