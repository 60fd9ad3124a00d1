"""What each process does in tests/models/test_sharding.py: models that are divided, beside the same models whole.

torchrun --nproc-per-node 2 -m tests.sharding_job FOLDER
"""

import copy
import itertools
import sys
from pathlib import Path

import torch

from plaudit.batches import select_rows
from plaudit.models import sharding
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import freeze_lower_layers, layers
from plaudit.models.lora import add_adapters
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.training import dist
from plaudit.training.optimizer import adamw, step
from tests.tiny import FAMILIES, make_family, some_responses

BF16, F32 = torch.bfloat16, torch.float32
LEARNS = ("all", "top layer", "lora")


class Lora:
    """Settings of adapters."""

    lora_rank, lora_alpha = 2, 4


def make(family: str, learns: str, engine: PlainEngine | FastEngine) -> Policy:
    """A policy, the same in every process."""
    lm = make_family(family)
    freeze_lower_layers(lm, int(learns == "top layer"))
    if learns == "lora":
        add_adapters(lm, Lora(), 1, "test")
        for name, p in lm.named_parameters():
            if ".lora_B." in name:  # an adapter that has learned something
                p.data = torch.linspace(-0.1, 0.1, p.numel()).view(p.shape)
    engine.prepare(lm)
    policy = Policy(lm, engine)
    with torch.no_grad():
        policy.value_head.weight.copy_(torch.linspace(-1, 1, policy.value_head.weight.numel()))
    return policy.eval()


def gradients(policy: Policy, reference: object, responses: object) -> float:
    """Set p.grad to those of a loss with values and a KL penalty; returns the loss."""
    mask = responses.response_mask
    logprobs, values = policy(responses.ids, responses.attention_mask, mask, temperature=0.7)
    found = policy.engine.compare(policy.lm, reference, responses, 0.7, gradient=True)
    loss = ((responses.response_ids % 5 - 2) * logprobs).sum() + (values**2).sum()
    loss = loss + found.kl.sum() - found.entropy.sum()
    loss.backward()
    return loss.item()


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers of a tensor of which this process may have a share."""
    return tensor.full_tensor() if sharding.is_share(tensor) else tensor


def check(family: str, learns: str, fast: bool, dtype: torch.dtype, folder: Path) -> None:
    """Two steps on the rows of this process, and a generation before, in between and at the end."""

    def engine() -> PlainEngine | FastEngine:
        return FastEngine(dtype, folder, round_matrices=False) if fast else PlainEngine(dtype)

    whole, ours = make(family, learns, engine()), make(family, learns, engine())
    references = [copy.deepcopy(whole.lm).requires_grad_(False) for _ in range(2)]
    with torch.no_grad():
        for reference in references:
            reference.get_input_embeddings().weight.mul_(1.1)
    for model in (ours.lm, references[1]):
        sharding.shard(model)
    optimizers = [adamw(policy, 1e-3) for policy in (whole, ours)]
    batch = some_responses()
    n, size = len(batch.ids), dist.size()
    rows = torch.arange(n * dist.rank() // size, n * (dist.rank() + 1) // size)
    mine = select_rows(batch, rows)
    for number in range(2):
        # The first step of Adam makes 1e-3 of any gradient, whose last digits differ.
        near = {"rtol": 0.0, "atol": (1e-5, 1e-4)[number] if dtype == F32 else 0.05}
        for policy, some, reference in ((whole, batch, references[0]), (ours, mine, references[1])):
            gradients(policy, reference, some)
        dist.add_gradients(ours.parameters())
        names = dict(ours.named_parameters())
        for name, p in whole.named_parameters():
            assert sharding.is_share(names[name]) == name.startswith("lm."), name
            assert (p.grad is None) == (names[name].grad is None), name
            if p.grad is not None:
                scale = max(1.0, p.grad.abs().max().item())
                torch.testing.assert_close(full(names[name].grad) / scale, p.grad / scale, **near, msg=name)
        norms = [step(o, policy, 1.0, "test") for o, policy in zip(optimizers, (whole, ours), strict=True)]
        assert abs(norms[0] - norms[1]) <= near["atol"] * norms[0], (family, norms)
        seen = []
        for policy, some in ((whole, mine), (ours, mine)):
            with sharding.unsharded(policy.lm, layers_too=True):
                for _ in range(1 + 2 * dist.rank()):  # as often as this process likes
                    drawn = policy.engine.generate(
                        policy.lm, some.ids[:, :3], some.attention_mask[:, :3], torch.full((len(rows), 5), 0.4), [1], 0
                    )
            seen.append((drawn.ids.tolist(), policy.engine.compare(policy.lm, references[0], some).logprobs))
        assert dtype != F32 or seen[0][0] == seen[1][0], family
        torch.testing.assert_close(seen[1][1], seen[0][1], **near)
    held = sum(sharding.local(p).numel() for p in ours.lm.parameters())
    assert held < 0.6 * sum(p.numel() for p in whole.lm.parameters())
    assert all(sharding.is_share(p) for p in layers(ours.lm)[0].parameters())  # nothing stays gathered
    kinds = {name: type(module) for name, module in whole.lm.named_modules()}
    ours.engine.restore(ours.lm, optimizers[1], lambda: None)
    if dist.rank() == 0:
        for (name, p), q in zip(ours.lm.named_parameters(), whole.lm.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0.0, atol=2e-3, msg=name)  # Adam makes steps of 1e-3 of any gradient
        assert {name: type(module) for name, module in ours.lm.named_modules()} == kinds


def main(folder: str) -> None:
    """Check all families and engines."""
    torch.set_num_threads(1)
    dist.start()
    for family, learns in itertools.product(FAMILIES, LEARNS):
        check(family, learns, True, F32, Path(folder))
    for learns, (fast, dtype) in itertools.product(LEARNS, ((False, F32), (True, BF16))):
        check("gpt2", learns, fast, dtype, Path(folder))
    check("llama", "all", False, F32, Path(folder))
    print("all as whole", flush=True)
    dist.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
