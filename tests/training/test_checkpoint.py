import json

import pytest
import torch

from plaudit.errors import RunError
from plaudit.models.plain import PlainEngine
from plaudit.training.checkpoint import Checkpoints, load_weights, saved_weights
from plaudit.training.metrics import MetricsLog, StepReport, read_jsonl
from plaudit.training.optimizer import adamw, step


class Network(torch.nn.Sequential):
    """Layers with an engine, as `adamw` and `step` ask for."""

    engine = PlainEngine()


def make_network(seed=0):
    torch.manual_seed(seed)
    return Network(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))


def train(model, optimizer, first, last):
    for number in range(first, last):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        model(x).square().mean().backward()
        step(optimizer, model, 1.0, "test")


def test_training_goes_on_from_a_checkpoint_byte_for_byte(tmp_path):
    whole, half = make_network(), make_network()
    a, b = adamw(whole, 0.01), adamw(half, 0.01)
    train(whole, a, 0, 10)
    train(half, b, 0, 6)
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(6, half, b, {"kl_coef": 0.125})

    fresh = make_network(seed=9)
    c = adamw(fresh, 0.01)
    assert Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).restore(fresh, c) == {"step": 6, "kl_coef": 0.125}
    train(fresh, c, 6, 10)
    for p, q in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in a.state[p].items():
            assert torch.equal(value, c.state[q][key])


def test_without_a_checkpoint_training_starts_at_step_zero(tmp_path):
    model = make_network()
    assert Checkpoints(tmp_path / "none", "f", MetricsLog(tmp_path)).restore(model, adamw(model, 0.1)) == {"step": 0}


def test_the_newest_two_are_kept_and_a_partly_written_one_is_ignored(tmp_path):
    model = make_network()
    optimizer = adamw(model, 0.1)
    checkpoints = Checkpoints(tmp_path, "f", MetricsLog(tmp_path))
    for number in (1, 2, 3):
        checkpoints.save(number, model, optimizer)
    (tmp_path / ".step-00000004.partial").mkdir()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000002", "step-00000003"]
    assert checkpoints.restore(model, optimizer)["step"] == 3


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


def claim(path, name, value):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {name: value}))


DAMAGES = {
    "flipped": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_resume_goes_down_to_the_newest_whole_checkpoint_and_sets_the_damaged_ones_aside(tmp_path, name, damage):
    model = make_network()
    optimizer = adamw(model, 0.1)
    checkpoints = Checkpoints(tmp_path, "f", MetricsLog(tmp_path))
    checkpoints.save(1, model, optimizer, {"kl_coef": 0.5})
    checkpoints.save(2, model, optimizer)
    DAMAGES[damage](tmp_path / "step-00000002" / name)
    assert checkpoints.restore(model, optimizer) == {"step": 1, "kl_coef": 0.5}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-step-00000002", "step-00000001"]
    aside = tmp_path / "damaged-step-00000002"
    assert checkpoints.take_notes() == (f"{aside}: damaged checkpoint, set aside; training goes on from step 1",)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("manifest.json", "sha256", {}),
        ("manifest.json", "sha256", []),
        ("state.json", "step", 2),
        ("state.json", "fingerprint", "f"),
    ],
)
def test_nothing_is_left_out_of_the_check(tmp_path, name, key, value):
    model = make_network()
    optimizer = adamw(model, 0.1)
    checkpoints = Checkpoints(tmp_path, "g", MetricsLog(tmp_path))
    checkpoints.save(1, model, optimizer)
    claim(tmp_path / "step-00000001" / name, key, value)
    with pytest.raises(RunError, match="every checkpoint is damaged; start the stage again with --overwrite"):
        checkpoints.restore(model, optimizer)
    with pytest.raises(RunError, match="every checkpoint is damaged"):  # once more: nothing starts silently at zero
        checkpoints.restore(model, optimizer)


def test_a_checkpoint_under_another_step_is_damaged(tmp_path):
    model = make_network()
    optimizer = adamw(model, 0.1)
    checkpoints = Checkpoints(tmp_path, "f", MetricsLog(tmp_path))
    checkpoints.save(1, model, optimizer)
    checkpoints.save(2, model, optimizer)
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000003")
    assert checkpoints.restore(model, optimizer) == {"step": 1}


def test_logs_are_cut_back_to_the_checkpoint(tmp_path):
    model, log = make_network(), MetricsLog(tmp_path / "log")
    optimizer, checkpoints = adamw(model, 0.1), Checkpoints(tmp_path / "checkpoints", "f", log)
    for number in (1, 2, 3):
        log.append(StepReport("ppo", number, 3, {"loss": 0.5}, {"seconds": 1.0}))
        log.log_responses(number, response=["a", "b"])
        log.log_tokens(number, ids=[[1, 2], [3]])
        if number == 2:
            checkpoints.save(2, model, optimizer)
            kept = [path.read_bytes() for path in (log.metrics_path, log.rollouts_path, log.tokens_path)]
    with log.metrics_path.open("ab") as file:
        file.write(b'{"step": 4, "lo')  # killed while writing
    assert checkpoints.restore(model, optimizer) == {"step": 2}
    assert [path.read_bytes() for path in (log.metrics_path, log.rollouts_path, log.tokens_path)] == kept
    assert len(read_jsonl(log.timing_path)) == 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl", "tokens.jsonl"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_log_that_has_changed_before_the_checkpoint_is_refused_by_name(tmp_path, name, damage):
    model, log = make_network(), MetricsLog(tmp_path / "log")
    optimizer, checkpoints = adamw(model, 0.1), Checkpoints(tmp_path / "checkpoints", "f", log)
    log.append(StepReport("ppo", 1, 3, {"loss": 0.5}, {"seconds": 1.0}))
    log.log_responses(1, response=["a", "b"])
    log.log_tokens(1, ids=[[1, 2], [3]])
    checkpoints.save(1, model, optimizer)
    DAMAGES[damage](tmp_path / "log" / name)
    with pytest.raises(RunError, match=rf"{name}: damaged: its lines up to step 1 have changed; put the file back"):
        checkpoints.restore(model, optimizer)
    assert saved_weights(checkpoints.folder)  # the checkpoint itself is whole, and stays


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    model = make_network()
    optimizer = adamw(model, 0.1)
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(1, model, optimizer)
    with pytest.raises(RunError, match="other settings"):
        Checkpoints(tmp_path, "g", MetricsLog(tmp_path)).restore(model, optimizer)


def test_a_checkpoint_in_the_number_format_of_another_engine_is_refused(tmp_path):
    model, rounded = make_network(), make_network(seed=9).bfloat16()
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(1, model, adamw(model, 0.1))
    before = [p.clone() for p in rounded.parameters()]
    with pytest.raises(RunError, match="step-00000001: made with another engine; set engine and sharding as"):
        Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).restore(rounded, adamw(rounded, 0.1))
    assert all(torch.equal(p, q) for p, q in zip(rounded.parameters(), before, strict=True))


def test_nothing_is_pickled(tmp_path):
    model = make_network()
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(1, model, adamw(model, 0.1))
    files = sorted(p.name for p in (tmp_path / "step-00000001").iterdir())
    assert files == ["manifest.json", "state.json", "tensors.safetensors"]
    state = json.loads((tmp_path / "step-00000001" / "state.json").read_text())
    assert state == {"step": 1, "fingerprint": "f", "logs": {}}


def test_the_weights_of_each_kept_checkpoint_can_be_loaded_without_the_optimizer(tmp_path):
    model, checkpoints = make_network(), Checkpoints(tmp_path, "f", MetricsLog(tmp_path))
    optimizer = adamw(model, 0.01)
    kept = {}
    for number in (1, 2, 3):
        train(model, optimizer, number - 1, number)
        checkpoints.save(number, model, optimizer)
        kept[number] = [p.detach().clone() for p in model.parameters()]
    assert sorted(saved_weights(checkpoints.folder)) == [2, 3]
    for number, path in saved_weights(checkpoints.folder).items():
        fresh = make_network(seed=9)
        load_weights(path, fresh)
        assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), kept[number], strict=True))


def test_weights_of_another_model_are_refused(tmp_path):
    model, checkpoints = make_network(), Checkpoints(tmp_path, "f", MetricsLog(tmp_path))
    checkpoints.save(1, model, adamw(model, 0.01))
    with pytest.raises(RunError, match=r"holds '1\.bias', which the model does not have"):
        load_weights(
            saved_weights(checkpoints.folder)[1], Network(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1, bias=False))
        )


def test_only_what_learns_is_saved_and_the_rest_stays(tmp_path):
    model = make_network()
    model[0].requires_grad_(False)
    optimizer = adamw(model, 0.01)
    train(model, optimizer, 0, 2)
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).save(2, model, optimizer)
    fresh = make_network(seed=9)
    fresh[0].requires_grad_(False)
    before = fresh[0].weight.clone()
    Checkpoints(tmp_path, "f", MetricsLog(tmp_path)).restore(fresh, adamw(fresh, 0.01))
    assert torch.equal(fresh[0].weight, before)
    assert torch.equal(fresh[1].weight, model[1].weight)
