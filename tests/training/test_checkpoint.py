import json

import pytest
import torch

from plaudit.errors import RunError
from plaudit.training import optimizer as optim
from plaudit.training.checkpoint import Checkpoints, load_weights


def _model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))


def _train(model, optimizer, first, last):
    for step in range(first, last):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optim.step(model(x).square().mean(), model, optimizer, 1.0, "test")


def test_restored_training_goes_on_byte_for_byte(tmp_path):
    whole, half = _model(), _model()
    a, b = optim.adamw(whole, 0.01), optim.adamw(half, 0.01)
    _train(whole, a, 0, 10)
    _train(half, b, 0, 6)
    Checkpoints(tmp_path, "f").save(6, half, b, {"kl_coef": 0.125})

    fresh = _model(seed=9)
    c = optim.adamw(fresh, 0.01)
    assert Checkpoints(tmp_path, "f").restore(fresh, c) == {"step": 6, "kl_coef": 0.125}
    _train(fresh, c, 6, 10)
    for p, q in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in a.state[p].items():
            assert torch.equal(value, c.state[q][key])


def test_nothing_to_restore_is_step_zero(tmp_path):
    model = _model()
    assert Checkpoints(tmp_path / "none", "f").restore(model, optim.adamw(model, 0.1)) == {"step": 0}


def test_two_are_kept_and_no_half_written_one_is_taken(tmp_path):
    model = _model()
    optimizer = optim.adamw(model, 0.1)
    checkpoints = Checkpoints(tmp_path, "f")
    for step in (1, 2, 3):
        checkpoints.save(step, model, optimizer)
    (tmp_path / ".step-00000004.partial").mkdir()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000002", "step-00000003"]
    assert checkpoints.restore(model, optimizer)["step"] == 3


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name):
    model = _model()
    optimizer = optim.adamw(model, 0.1)
    Checkpoints(tmp_path, "f").save(1, model, optimizer)
    path = tmp_path / "step-00000001" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"step-00000001: (damaged|made with other)"):
        Checkpoints(tmp_path, "f").restore(model, optimizer)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    model = _model()
    optimizer = optim.adamw(model, 0.1)
    Checkpoints(tmp_path, "f").save(1, model, optimizer)
    with pytest.raises(RunError, match="other settings"):
        Checkpoints(tmp_path, "g").restore(model, optimizer)


def test_nothing_is_pickled(tmp_path):
    model = _model()
    Checkpoints(tmp_path, "f").save(1, model, optim.adamw(model, 0.1))
    files = sorted(p.name for p in (tmp_path / "step-00000001").iterdir())
    assert files == ["manifest.json", "state.json", "tensors.safetensors"]
    assert json.loads((tmp_path / "step-00000001" / "state.json").read_text()) == {"step": 1}


def test_the_weights_of_each_checkpoint_that_is_kept_can_be_had_without_the_optimizer(tmp_path):
    model, checkpoints = _model(), Checkpoints(tmp_path, "f")
    optimizer = optim.adamw(model, 0.01)
    kept = {}
    for step in (1, 2, 3):
        _train(model, optimizer, step - 1, step)
        checkpoints.save(step, model, optimizer)
        kept[step] = [p.detach().clone() for p in model.parameters()]
    assert sorted(checkpoints.weights()) == [2, 3]
    for step, path in checkpoints.weights().items():
        fresh = _model(seed=9)
        load_weights(path, fresh)
        assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), kept[step], strict=True))
