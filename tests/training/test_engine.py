import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, OTHER_FAMILIES, make_family

from plaudit.errors import ModelError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.plain import PlainEngine
from plaudit.training import dist
from plaudit.training.engine import choose_engine


def with_settings(run, **settings):
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **settings))


def test_auto_is_fast_for_the_families_that_the_fast_engine_knows_and_plain_for_others(cpu_run):
    assert all(isinstance(choose_engine(cpu_run, "sft", make_family(f)), FastEngine) for f in FAMILIES)
    assert all(isinstance(choose_engine(cpu_run, "sft", make_family(f)), PlainEngine) for f in OTHER_FAMILIES)


def test_plain_is_plain_for_every_family(cpu_run):
    run = with_settings(cpu_run, engine="plain")
    assert all(isinstance(choose_engine(run, "ppo", make_family(f)), PlainEngine) for f in FAMILIES)


def test_fast_refuses_a_model_that_it_does_not_know(cpu_run):
    run = with_settings(cpu_run, engine="fast")
    assert isinstance(choose_engine(run, "ppo", make_family("llama")), FastEngine)
    with pytest.raises(
        ModelError, match="engine = 'fast': it cannot run a bloom model with eager attention; use"
    ) as error:
        choose_engine(run, "ppo", make_family("bloom"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_engine_computes_in_the_number_format_of_the_run(cpu_run, engine):
    run = with_settings(cpu_run, engine=engine, dtype="bfloat16")
    assert choose_engine(run, "sft", make_family("gpt2")).dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [0, 2])
def test_matrices_stay_float32_under_adapters(cpu_run, rank):
    sft = dataclasses.replace(cpu_run.config.sft, lora_rank=rank)
    lm = make_family("gpt2").requires_grad_(False)
    choose_engine(with_settings(cpu_run, sft=sft, dtype="bfloat16"), "sft", lm).prepare(lm)
    assert lm.transformer.h[0].mlp.c_fc.weight.dtype == (torch.float32 if rank else torch.bfloat16)


def test_activations_lie_on_the_host_of_their_rank(cpu_run, monkeypatch):
    """A run directory that several hosts share is a network file system."""

    def folder():
        return choose_engine(cpu_run, "sft", make_family("gpt2"))._folder

    assert folder() == cpu_run.folder("sft")
    monkeypatch.setattr(dist, "size", lambda: 4)
    for here, expected in (("4", cpu_run.folder("sft")), ("2", Path(tempfile.gettempdir()))):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        assert folder() == expected
