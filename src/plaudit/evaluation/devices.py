"""A GPU against the CPU: the same forward pass, generation and training step on both, before anything is trained.

Apple's MPS, above all, has had operators that gave wrong numbers without an error; CUDA is held to the same limits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from plaudit.evaluation.checks import Check, draws_outside
from plaudit.maths.logprobs import token_logprobs
from plaudit.models.plain import PlainEngine
from plaudit.models.tokenizer import Tokenizer, pad_left

ROWS, _LARGEST = 4, 2 * 10**9  # prompts; parameters above which the CPU would take minutes
_LR = 1e-3
# Limits by number format of the device; the CPU computes in float32. TF32 and other orders of sums explain less.
_NATS = {torch.float32: 0.02, torch.bfloat16: 1.0}  # of a token's log-probability, at most
_OUTSIDE = {torch.float32: 1e-3, torch.bfloat16: 1e-2}  # of a probability, on average over the drawn tokens
_GRADIENT = {torch.float32: 0.02, torch.bfloat16: 0.2}  # norm of the difference, as a share of the norm
_LOSS = {torch.float32: 0.01, torch.bfloat16: 0.1}  # nats a token, after a step


def is_compared(device: torch.device) -> bool:
    """Whether a device is compared with the CPU: any other than the CPU itself."""
    return device.type != "cpu"


def against_cpu(
    lm: Any,
    prompts: list[list[int]],
    noise: torch.Tensor,
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    to_cpu: Callable[[Any], Any] = lambda lm: copy.deepcopy(lm).float().cpu(),
) -> Iterator[Check]:
    """The checks of a model's device.

    Args:
        lm: the language model on the device.
        noise: (N, R) random numbers for the draws, one row a prompt.
        dtype: number format of the device's forward pass.
        to_cpu: makes the copy of `lm` that it is compared with.
    """
    device = next(lm.parameters()).device
    if sum(p.numel() for p in lm.parameters()) > _LARGEST:
        return
    advice = f"{device.type} computes other numbers than the CPU; use --device cpu, or another version of torch"
    own, plain = PlainEngine(dtype), PlainEngine()
    ids, mask = pad_left(prompts[:ROWS], tokenizer.pad_id)
    models = {"device": (copy.deepcopy(lm), own, device), "cpu": (to_cpu(lm), plain, torch.device("cpu"))}

    with torch.no_grad():
        rest = (noise[:ROWS], tokenizer.end_ids, tokenizer.pad_id)
        responses = own.generate(models["device"][0], ids.to(device), mask.to(device), *rest)
        batch = responses.ids, responses.attention_mask, responses.response_mask
        tokens = responses.response_ids[responses.response_mask].cpu()
        logits = {}
        for place, (model, engine, where) in models.items():
            all_ids, all_mask, wanted = (tensor.to(where) for tensor in batch)
            logits[place] = engine.response_logits(model, all_ids, all_mask, wanted, 1.0)[0].cpu()
    gap = (token_logprobs(logits["device"], tokens) - token_logprobs(logits["cpu"], tokens)).abs().max().item()
    found = f"log-probabilities differ by at most {gap:.1g} nats"
    yield Check(f"forward pass on {device.type} against the CPU", gap < _NATS[dtype], found, advice)

    uniform = noise[:ROWS, : responses.response_mask.shape[1]][responses.response_mask.cpu()]
    outside = draws_outside(logits["cpu"], tokens, uniform)
    found = f"the draws of {len(tokens)} tokens are off by {outside:.1g} of a probability on average"
    yield Check(f"generation on {device.type} against the CPU", outside < _OUTSIDE[dtype], found, advice)

    steps = {p: _step(model, engine, [tensor.to(d) for tensor in batch]) for p, (model, engine, d) in models.items()}
    (gradient, loss), (expected, expected_loss) = steps["device"], steps["cpu"]
    off = ((gradient - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    apart = abs(loss - expected_loss)
    found = f"gradients differ by {off:.1%}, the loss after a step by {apart:.1g} nats a token"
    near = off < _GRADIENT[dtype] and apart < _LOSS[dtype]
    yield Check(f"training on {device.type} against the CPU", near, found, advice)


def _step(model: Any, engine: PlainEngine, batch: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The gradient of all weights on these responses, as one vector, and the loss after a step along it."""
    learns = [p.requires_grad_(True) for p in model.parameters()]
    optimizer = torch.optim.AdamW(learns, lr=_LR)
    ids, attention_mask, response_mask = batch

    def loss() -> torch.Tensor:
        return -engine.logprobs(model, ids, attention_mask, response_mask)[0].mean()

    loss().backward()
    used = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learns]
    gradient = torch.cat([g.detach().flatten().float().cpu() for g in used])
    optimizer.step()
    with torch.no_grad():
        return gradient, loss().item()
