"""AdamW in slices that fit into a cache, with float32 master weights for bfloat16 parameters.

For each slice, gradients are converted to float32, clipped and applied, and parameters are rounded, while the numbers
are in the cache. A plain optimizer reads all numbers from memory again for each of these operations.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as reference_adamw

from plaudit.models.fast.precision import MASTER
from plaudit.models.sharding import is_share, local, total

_SLICE, _SLICE_ON_CPU = 2**24, 2**20  # numbers in a slice; the second fits into the cache of a CPU


class SlicedAdamW(torch.optim.AdamW):
    """torch's AdamW, stepping a slice of numbers at a time.

    The state of a parameter has `step`, `exp_avg` and `exp_avg_sq` as torch's. The parameters in `rounded` are kept
    in `dtype`, and the state has their float32 values as `master`. With dtype float32 nothing is rounded.
    """

    def __init__(
        self, groups: list[dict[str, Any]], rounded: Iterable[nn.Parameter], dtype: torch.dtype, **settings: Any
    ) -> None:
        super().__init__(groups, **settings)
        round_these = {id(p) for p in rounded} if dtype != torch.float32 else set()
        # Allocate all state here: allocated in the first step, between short-lived gradients, it would fragment memory.
        for p in self.parameters():
            self.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p, dtype=torch.float32),
                "exp_avg_sq": torch.zeros_like(p, dtype=torch.float32),
            }
            if id(p) in round_these:
                self.state[p][MASTER] = p.data
                p.data = p.data.to(dtype)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter of every group."""
        return (p for group in self.param_groups for p in group["params"])

    def gradient_norm(self) -> float:
        """Norm of all gradients together, summed in float32."""
        room = self._room()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        squares = _squares((g for g in gradients if not is_share(g)), room)
        if any(map(is_share, gradients)):
            squares = squares + total(_squares(map(local, filter(is_share, gradients)), room))
        return squares.sqrt().item()

    @torch.no_grad()
    def step(self, closure: Any = None, scale: float = 1.0) -> None:  # type: ignore[override]
        """One AdamW step on the gradients at p.grad, multiplied by `scale`."""
        assert closure is None, "the loss is computed before the step"
        room = self._room()
        for group in self.param_groups:
            for slices in _together(self._slices(group["params"], len(room)), len(room)):
                _adamw(slices, _in_float32([s.gradient for s in slices], room), scale, group)
                for s in slices:
                    if s.rounded is not None:
                        s.rounded.copy_(s.weights)

    def _room(self) -> Tensor:
        """Memory for the float32 gradients of one slice, used again for every slice."""
        device = next(self.parameters()).device
        return torch.empty(_SLICE_ON_CPU if device.type == "cpu" else _SLICE, device=device)

    def _slices(self, parameters: Iterable[nn.Parameter], size: int) -> Iterator["_Slice"]:
        """The slices of all parameters that have a gradient; adds 1 to the step count of these parameters."""
        for p in parameters:
            if p.grad is None:
                continue
            state, own = self.state[p], p.detach()
            state["step"] += 1
            whole = (state.get(MASTER, own), p.grad, state["exp_avg"], state["exp_avg_sq"], own)
            parts = zip(*(local(x).view(-1).split(size) for x in whole), strict=True)
            for weights, gradient, exp_avg, exp_avg_sq, part in parts:
                rounded = part if MASTER in state else None
                yield _Slice(weights, gradient, exp_avg, exp_avg_sq, rounded, state["step"])


class _Slice(NamedTuple):
    """A flat slice of a parameter, its gradient and its state; `rounded` is the parameter itself in bfloat16."""

    weights: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    rounded: Tensor | None
    step: Tensor


def _squares(gradients: Iterable[Tensor], room: Tensor) -> Tensor:
    """The sum of the squares of all numbers."""
    slices = (_in_float32([part], room)[0] for g in gradients for part in g.view(-1).split(len(room)))
    # The dot product takes a CPU half the time of torch.linalg.vector_norm.
    squares = [torch.dot(part, part) for part in slices]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=room.device)


def _in_float32(gradients: list[Tensor], room: Tensor) -> list[Tensor]:
    """Flat gradients in float32; those of another format are converted into `room`."""
    lengths = [len(gradient) for gradient in gradients]
    parts = zip(gradients, room[: sum(lengths)].split(lengths), strict=True)
    return [g if g.dtype == torch.float32 else part.copy_(g) for g, part in parts]


def _together(slices: Iterable[_Slice], size: int) -> Iterator[list[_Slice]]:
    """Slices in lists of at most `size` numbers."""
    some: list[_Slice] = []
    number = 0
    for s in slices:
        if some and number + len(s.weights) > size:
            yield some
            some, number = [], 0
        some.append(s)
        number += len(s.weights)
    if some:
        yield some


def _adamw(slices: list[_Slice], gradients: list[Tensor], scale: float, group: dict[str, Any]) -> None:
    """One step by torch's fused kernel, which also scales the gradients, or by torch's functional AdamW."""
    weights, _, exp_avg, exp_avg_sq, _, steps = map(list, zip(*slices, strict=True))
    settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    settings["beta1"], settings["beta2"] = group["betas"]
    if hasattr(torch, "_fused_adamw_"):
        inverse = torch.tensor(1 / scale, device=weights[0].device) if scale != 1 else None
        torch._fused_adamw_(weights, gradients, exp_avg, exp_avg_sq, [], steps, **settings, grad_scale=inverse)
    else:
        before = [step - 1 for step in steps]  # the function adds 1 itself
        scaled = [gradient * scale for gradient in gradients]
        reference_adamw(weights, scaled, exp_avg, exp_avg_sq, [], before, foreach=False, **settings)
