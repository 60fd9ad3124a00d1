"""The optimizer, its learning-rate schedules, and the one place where a step is taken or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plaudit.errors import TrainingError
from plaudit.models.precision import shadows
from plaudit.models.trunk import ROUNDED_GRADIENT
from plaudit.training import memory

_AT_ONCE, _AT_ONCE_ON_CPU = 2**24, 2**20  # numbers that are stepped together; the second: what a cache holds


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases, norms and other vectors alone.

    Its moments are made here, not by the first step: between gradients that come and go they would leave holes. And
    from here on the process keeps what it frees, which is what the next step allocates.
    """
    memory.give_back()
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, eps=eps, fused=True)
    for p in trainable:  # as torch begins them
        optimizer.state[p] = {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    memory.keep_freed()
    return optimizer


def warmup_then_linear(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at step 0..total-1: a rise over `warmup` of the steps, a fall to 0."""
    rising = max(1, round(warmup * total))
    return min((step + 1) / rising, (total - step) / max(1, total - rising + 1))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def step(loss: Tensor, model: nn.Module, optimizer: torch.optim.AdamW, max_grad_norm: float, where: str) -> float:
    """Backward, clip, step. Returns the gradient norm before clipping.

    Args:
        optimizer: one that `adamw` made for this model.

    Raises:
        TrainingError: the loss or a gradient is not finite; nothing has then been changed. (Scaling such a
            loss by zero would not help: NaN times zero is NaN, and AdamW steps on a zero gradient too.)
    """
    if not math.isfinite(loss.item()):
        raise TrainingError(f"{where}: the loss is {loss.item()}; lower the learning rate, or look at the data")
    halved = dict(shadows(model))
    _take_gradients(model, halved)  # what was left there by somebody else
    loss.backward()
    gradients = _take_gradients(model, halved)
    room = torch.empty(_at_once(loss), device=loss.device)
    norm = _norm(gradients.values(), room)
    if not math.isfinite(norm):
        raise TrainingError(f"{where}: the gradient norm is {norm}; lower the learning rate")
    _apply(optimizer, gradients, halved, min(1.0, max_grad_norm / (norm + 1e-6)), room)
    return norm


def _take_gradients(model: nn.Module, halved: dict[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
    """The gradient of every parameter that has one, from wherever `backward()` left it; it is then gone there."""
    found = {}
    for parameter in model.parameters():
        place = halved.get(parameter, parameter)
        parts = [x for x in (place.grad, parameter.__dict__.pop(ROUNDED_GRADIENT, None)) if x is not None]
        place.grad = None
        if parts:
            found[parameter] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return found


def _norm(gradients: Iterable[Tensor], room: Tensor) -> float:
    """Of all of them together, summed in float32 by the dot product, which takes a CPU half the time of vector_norm."""
    parts = (_in_float32([part], room)[0] for gradient in gradients for part in gradient.view(-1).split(len(room)))
    return torch.stack([torch.dot(part, part) for part in parts]).sum().sqrt().item()


def _in_float32(gradients: list[Tensor], room: Tensor) -> list[Tensor]:
    """Flat gradients in float32; those that are not are written into `room`, which takes them all.

    Allocated one by one, each could take fresh memory: something small is soon put where the one before it lay.
    """
    found, used = [], 0
    for gradient in gradients:
        if gradient.dtype != torch.float32:
            end = used + len(gradient)
            gradient, used = room[used:end].copy_(gradient), end
        found.append(gradient)
    return found


class _Piece(NamedTuple):
    """Some numbers of a parameter and all that belongs to them, flat; `rounded` is of its shadow, where it has one."""

    numbers: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    step: Tensor
    rounded: Tensor | None


@torch.no_grad()
def _apply(
    optimizer: torch.optim.AdamW,
    gradients: dict[nn.Parameter, Tensor],
    halved: dict[nn.Parameter, Tensor],
    share: float,
    room: Tensor,
) -> None:
    """The step of `optimizer`, by torch's own kernel, on a cacheful of numbers at a time.

    Gradients become float32, are clipped and used, and shadows are rounded, before the numbers leave the cache.
    optimizer.step() goes through all numbers, and so through memory, for each of these.

    Args:
        halved: the parameters that have a shadow, and these.
        share: what clipping leaves of the gradients.
        room: for the float32 gradients of as many numbers as are stepped together.
    """
    scale = torch.tensor(1 / share, device=room.device) if share < 1 else None
    for group in optimizer.param_groups:
        for some in _together(_pieces(group["params"], optimizer, gradients, halved)):
            torch._fused_adamw_(
                [piece.numbers for piece in some],
                _in_float32([piece.gradient for piece in some], room),
                [piece.mean for piece in some],
                [piece.square for piece in some],
                [],
                [piece.step for piece in some],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
            )
            for piece in some:
                if piece.rounded is not None:
                    piece.rounded.copy_(piece.numbers)


def _pieces(
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.AdamW,
    gradients: dict[nn.Parameter, Tensor],
    halved: dict[nn.Parameter, Tensor],
) -> Iterator[_Piece]:
    """What is to be stepped, its step counted."""
    for parameter in parameters:
        if parameter not in gradients:
            continue
        state = optimizer.state[parameter]
        state["step"] += 1
        size = _at_once(parameter)
        all_its = (parameter, gradients[parameter], state["exp_avg"], state["exp_avg_sq"])
        flat = [x.view(-1).split(size) for x in all_its]
        rounded = halved[parameter].view(-1).split(size) if parameter in halved else [None] * len(flat[0])
        for numbers, its, mean, square, copy in zip(*flat, rounded, strict=True):
            yield _Piece(numbers, its, mean, square, state["step"], copy)


def _together(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces in lists of at most as many numbers as one piece may have."""
    some: list[_Piece] = []
    number = 0
    for piece in pieces:
        number += len(piece.numbers)
        if some and number > _at_once(piece.numbers):
            yield some
            some, number = [], len(piece.numbers)
        some.append(piece)
    if some:
        yield some


def _at_once(x: Tensor) -> int:
    return _AT_ONCE_ON_CPU if x.device.type == "cpu" else _AT_ONCE
