"""The optimizer, its learning-rate schedules, and the one place where a step is taken or refused."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plaudit.errors import TrainingError
from plaudit.models.precision import refresh, shadows

_AT_ONCE = 2_500_000  # numbers whose float32 gradients exist together: what a cache may still hold when they are used


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases, norms and other vectors alone."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, eps=eps, fused=True)


def warmup_then_linear(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at step 0..total-1: a rise over `warmup` of the steps, a fall to 0."""
    rising = max(1, round(warmup * total))
    return min((step + 1) / rising, (total - step) / max(1, total - rising + 1))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def step(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float, where: str) -> float:
    """Backward, clip, step. Returns the gradient norm before clipping.

    Raises:
        TrainingError: the loss or a gradient is not finite; nothing has then been changed. (Scaling such a
            loss by zero would not help: NaN times zero is NaN, and AdamW steps on a zero gradient too.)
    """
    if not math.isfinite(loss.item()):
        raise TrainingError(f"{where}: the loss is {loss.item()}; lower the learning rate, or look at the data")
    optimizer.zero_grad(set_to_none=True)
    for _, shadow in shadows(model):
        shadow.grad = None
    loss.backward()
    halved = [(parameter, shadow) for parameter, shadow in shadows(model) if shadow.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if halved:
        norm = torch.stack([norm, *(_gradient_norm(shadow) for _, shadow in halved)]).norm()
    if not math.isfinite(norm.item()):
        raise TrainingError(f"{where}: the gradient norm is {norm.item()}; lower the learning rate")
    if norm > max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_grad_norm, norm)
    optimizer.step()
    if halved:
        _step_halved(halved, optimizer, min(1.0, max_grad_norm / (norm.item() + 1e-6)))
    return norm.item()


def _step_halved(halved: list[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer, share: float) -> None:
    """Step the parameters whose gradients are at shadows, a few at a time: float32 ones never exist together.

    Args:
        share: what clipping leaves of the gradients.
    """
    optimizer.zero_grad(set_to_none=True)
    room = torch.empty(max(_AT_ONCE, *(p.numel() for p, _ in halved)), device=halved[0][0].device)
    used = 0
    these: list[tuple[nn.Parameter, Tensor]] = []
    for parameter, shadow in halved:
        assert shadow.grad is not None
        if used + parameter.numel() > len(room):
            _step_these(these, optimizer)
            used, these = 0, []
        parameter.grad = room[used : used + parameter.numel()].view_as(parameter).copy_(shadow.grad)
        if share < 1:
            parameter.grad.mul_(share)
        shadow.grad = None
        used += parameter.numel()
        these.append((parameter, shadow))
    _step_these(these, optimizer)


def _step_these(halved: list[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    for parameter, _ in halved:
        parameter.grad = None
    refresh(halved)


def _gradient_norm(shadow: Tensor) -> Tensor:
    """Summed in float32; by the dot product, which takes a CPU half the time of vector_norm."""
    assert shadow.grad is not None
    flat = shadow.grad.float().flatten()
    return torch.dot(flat, flat).sqrt()
