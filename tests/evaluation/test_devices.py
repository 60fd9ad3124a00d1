"""A device against the CPU. A second copy of the model on the CPU stands in for the device."""

import copy
import dataclasses

import pytest
import torch
from tiny import make_family, make_lm

from plaudit import rng
from plaudit.evaluation import devices, doctor
from plaudit.evaluation.devices import against_cpu, is_compared
from plaudit.training.run import Run

PROMPTS = [[0, 5, 6], [0, 7], [0, 8, 9, 10], [0]]
NAMES = ["forward pass", "generation", "training"]


def failing(lm, tokenizer, dtype=torch.float32, **how):
    noise = rng.uniforms(range(len(PROMPTS)), 12, 1, "test", 0, "responses")
    checks = list(against_cpu(lm, PROMPTS, noise, tokenizer, dtype, **how))
    assert [check.name for check in checks] == [f"{name} on cpu against the CPU" for name in NAMES]
    assert all(check.stops for check in checks)
    return [check.name.partition(" on ")[0] for check in checks if not check.ok]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_devices_pass(tiny_tokenizer, dtype):
    lm = make_lm().eval()
    before = copy.deepcopy(lm.state_dict())
    assert failing(lm, tiny_tokenizer, dtype) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.state_dict().items())
    assert all(p.grad is None for p in lm.parameters())


def test_a_family_without_a_key_value_cache_passes(tiny_tokenizer):
    lm, noise = make_family("mamba"), rng.uniforms(range(2), 4, 1, "test", 0, "responses")
    tokenizer = dataclasses.replace(tiny_tokenizer, eos_id=0, pad_id=63)  # the model knows 64 tokens
    assert all(check.ok for check in against_cpu(lm, [[1, 2], [3]], noise, tokenizer, torch.float32))


def changed(change):
    """A copy for the CPU of which one module computes something else: as if the device did."""

    def to_cpu(lm):
        other = copy.deepcopy(lm)
        change(other)
        return other

    return to_cpu


def test_an_operator_that_is_wrong_in_the_forward_pass_is_found(tiny_tokenizer):
    def shift(lm):
        lm.transformer.h[1].mlp.register_forward_hook(lambda _, __, out: 1.5 * out)

    assert failing(make_lm().eval(), tiny_tokenizer, to_cpu=changed(shift)) == NAMES


def test_an_operator_that_is_wrong_in_the_backward_pass_alone_is_found(tiny_tokenizer):
    def cut(lm):
        lm.transformer.h[0].mlp.register_forward_hook(lambda _, __, out: out.detach())

    assert failing(make_lm().eval(), tiny_tokenizer, to_cpu=changed(cut)) == ["training"]


def test_sampling_that_is_wrong_is_found(tiny_tokenizer, monkeypatch):
    from plaudit.models import plain

    monkeypatch.setattr(plain, "sample_tokens", lambda logits, u: logits.argmax(-1))
    assert failing(make_lm().eval(), tiny_tokenizer) == ["generation"]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_the_doctor_compares_every_device_but_the_cpu(finished_run, monkeypatch, stage):
    assert [is_compared(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [False, True, True]
    run = Run.existing(finished_run)
    names = {check.name for check in doctor.doctor(run, stage)}
    monkeypatch.setattr(doctor, "is_compared", lambda device: True)
    compared = doctor.doctor(run, stage)
    assert {check.name for check in compared} - names == {f"{name} on cpu against the CPU" for name in NAMES}
    assert [check.line for check in compared if not check.ok and check.stops] == []


def test_a_very_large_model_is_not_copied_to_the_cpu(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(devices, "_LARGEST", 10)
    assert list(against_cpu(make_lm(), PROMPTS, torch.zeros(4, 2), tiny_tokenizer, torch.float32)) == []
