"""Two steps of training on TRL's tokens, compared with TRL's: what test_preferences.py and test_groups.py share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from plaudit.batches import number_of_rows
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.training.optimizer import accumulate
from tests.parity.small import SEEDS, build, gradients

FIXTURE = json.loads((Path(__file__).parent / "trl-1.16.json").read_text(encoding="utf-8"))
CASES = FIXTURE["cases"]


def same(actual: Any, expected: Any):
    """Equal within the rounding of float32, which two steps add up."""
    actual, expected = (torch.as_tensor(x, dtype=torch.float32).detach() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=5e-6)


def language_model(name: str) -> Any:
    return build(LlamaForCausalLM, SEEDS[name]).eval()


def policy_of(name: str) -> Policy:
    return Policy(language_model(name), PlainEngine(), value_head=False)


def steps_of(case: dict, network: Any) -> Iterator[dict]:
    """TRL's steps. Whoever takes them leaves a gradient in `network`, which is compared, and descended."""
    for step in case["steps"]:
        network.zero_grad()
        yield step
        for name, value in gradients(network).items():
            same(value, step[name])
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= FIXTURE["lr"] * parameter.grad


def mean_of(batch: Any, loss: Callable, count: int | None = None, microbatch_size: int = 0) -> dict[str, float]:
    """What training does: leave the gradient of the mean loss; its figures."""
    return accumulate(batch, microbatch_size, loss, count or number_of_rows(batch), "parity")
