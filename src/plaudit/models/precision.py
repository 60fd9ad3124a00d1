"""Number formats: what learns is kept and saved in float32, the matrices of the blocks compute in the run's format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from plaudit.models.trunk import ROUNDED_GRADIENT, blocks, by_blocks

_CAN_ROUND = hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")  # torch 2.9 and later
_CAN_PACK = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_ROWS = 40  # for which a packed weight is laid out; other numbers of rows are multiplied as fast
_AT_ONCE = 2**21  # numbers of a weight that are rounded together: what a cache still holds when they are multiplied
_ROUNDED = "products_are_rounded"
_SPARE = "spare"  # where a weight's rounded gradient lies from step to step
_ATTENTION = "plaudit"


def halve(model: Any, dtype: torch.dtype, *, matrices: bool = True) -> None:
    """Let the matrices of a model's blocks compute in `dtype`; autocast would else convert them at every pass.

    A frozen one is kept in `dtype` alone. One that learns stays float32 as the model's parameter, which is what the
    optimizer steps and checkpoints and folders hold, and has a rounded shadow that the forward pass reads and the
    gradient is left at (see `shadows`). Embeddings and norms keep float32, and with them what runs along the trunk.
    The output embedding's products are `RoundedProduct`'s, and attention is in float32.

    Args:
        matrices: False: the blocks' stay as they are, for adapters are added to them in float32.
    """
    if dtype == torch.float32 or not by_blocks(model):
        return
    model.config._attn_implementation = _ATTENTION
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.bias is None:
        head.__dict__[_ROUNDED] = dtype == torch.bfloat16 and head.weight.device.type == "cpu" and _CAN_ROUND
    for block in blocks(model) if matrices else ():
        for module in block.modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                if module.weight.requires_grad:
                    # Found before the parameter of that name, which named_parameters() and state_dict() still list.
                    module.__dict__["weight"] = module.weight.detach().to(dtype).requires_grad_()
                else:
                    module.to(dtype)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """transformers' attention (B, H, T, E); a CPU takes twice as long for it in bfloat16, so there it is in float32."""
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    with torch.autocast("cpu", enabled=False):
        whole = (x.float() for x in (query, key, value))
        output, _ = sdpa_attention_forward(module, *whole, attention_mask, **given)
    return output.to(value.dtype), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def halve_embedding(scorer: Any, dtype: torch.dtype, others: Iterable[Any]) -> None:
    """Keep a frozen reward model's embedding in `dtype` alone, as its matrices are, if it is nobody else's.

    No logits come of it. A reference's is not rounded: it must read what the policy reads, whose embedding learns.
    """
    table = scorer.get_input_embeddings()
    if by_blocks(scorer) and not any(table.weight is lm.get_input_embeddings().weight for lm in others):
        table.to(dtype)


def is_rounded(head: nn.Module) -> bool:
    """Whether `halve` asked for this output embedding's products by `RoundedProduct`."""
    return head.__dict__.get(_ROUNDED, False)


class RoundedProduct(torch.autograd.Function):
    """(..., V) x W^T with factors rounded to bfloat16, summed and given in float32.

    Rounded is what oneDNN multiplies in bfloat16, which on a CPU takes AMX: one without it computes in float32 here.

    A logit given in bfloat16 would be wrong by up to half a nat (see `heads.in_float32`); one of rounded factors is
    wrong by what rounding the trunk does anyway. Float32 products were a third of a step at GPT-2's size.

    Gradients are of rounded factors, too: that of x the float32 sum of bfloat16 parts, that of the weight bfloat16, so
    not at weight.grad, which must be float32 (see `trunk.rounded_gradient`), but where `training.optimizer.step` takes
    it. It is added in place, and lies where that of the step before lay: 77 MB for GPT-2, which cost more in page
    faults than in arithmetic when they were allocated anew. So this is for `backward()`: neither torch.autograd.grad
    nor zero_grad() sees it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., D), weight (V, D), both float32."""
        ctx.save_for_backward(x)
        ctx.weight = weight  # itself: a saved tensor that a checkpoint gives back is another, whose gradient is lost
        with _rounding(), torch.autocast("cpu", enabled=False):  # which would convert the whole weight for each token
            packed = _packed(weight, make=ctx.needs_input_grad[0])
            return x @ weight.T if packed is None else _times_packed(x, packed[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        """The gradient of x; the weight's is put into its place."""
        (x,), weight = ctx.saved_tensors, ctx.weight
        shape, gradient = x.shape, gradient.flatten(0, -2).bfloat16()
        if not ctx.needs_input_grad[1]:
            return _times_rounded(gradient, weight).view(shape), None
        x, kept = x.flatten(0, -2).bfloat16(), weight.__dict__
        begun = ROUNDED_GRADIENT in kept
        if not begun:
            if _SPARE not in kept:
                kept[_SPARE] = torch.empty_like(weight, dtype=torch.bfloat16)
            kept[ROUNDED_GRADIENT] = kept[_SPARE]
        back = x.new_zeros(x.shape, dtype=torch.float32)
        size = max(1, _AT_ONCE // weight.shape[1])
        parts = gradient.split(size, 1), weight.split(size), kept[ROUNDED_GRADIENT].split(size)
        for of_these, part, its in zip(*parts, strict=True):
            back += of_these @ part.bfloat16()
            if begun:
                its += of_these.T @ x
            else:
                torch.mm(of_these.T, x, out=its)
        return back.view(shape), None


def lay_out(head: nn.Linear) -> None:
    """Make what products of an output embedding that does not learn go by, so that the first is as all others."""
    if is_rounded(head):
        _packed(head.weight, make=True)


def times_embedding(head: nn.Linear, x: Tensor) -> Tensor:
    """(N, V) x W in float32, for an output embedding that does not learn; rounded where `RoundedProduct` rounds."""
    with torch.autocast(x.device.type, enabled=False):
        return _times_rounded(x, head.weight) if is_rounded(head) else x @ head.weight


def _times_rounded(x: Tensor, weight: Tensor) -> Tensor:
    packed, rounded = _packed(weight, make=True), x.bfloat16()
    return (rounded @ weight.bfloat16() if packed is None else _times_packed(rounded, packed[1])).float()


def _packed(weight: Tensor, *, make: bool) -> tuple[Tensor, Tensor] | None:
    """A frozen weight as oneDNN lays it out: (V, D) for x W^T, and (D, V), rounded, for the gradient of x.

    A product of a few rows lays out its weight first, which takes as long as the rest of it; one that stays as it is
    can be kept so. For GPT-2 that is 230 MB, hence not for a model that nothing learns through, such as a reference.

    Args:
        make: make them if they are not there.
    """
    if weight.requires_grad or not _CAN_PACK:
        return None
    version, both = getattr(weight, "packed", (None, None))
    if version != weight._version:  # it was set since
        both = None
    if both is None and make:
        lay_out = torch.ops.mkldnn._reorder_linear_weight
        both = lay_out(weight.detach(), _ROWS), lay_out(weight.detach().bfloat16().T, _ROWS)
        weight.packed = weight._version, both  # type: ignore[attr-defined]
    return both


def _times_packed(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


@contextmanager
def _rounding() -> Iterator[None]:
    """Float32 products of a CPU with AMX round their factors to bfloat16 in here."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing from the stubs
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def shadows(model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """(parameter, shadow) of every matrix that `halve` gave one; the gradient is at the shadow."""
    found = [(module._parameters.get("weight"), module.__dict__.get("weight")) for module in model.modules()]
    return [(parameter, shadow) for parameter, shadow in found if parameter is not None and shadow is not None]


@torch.no_grad()
def refresh(halved: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Round the parameters into their shadows, after they were set."""
    for parameter, shadow in halved:
        shadow.copy_(parameter)


def make_whole(model: Any, source: Callable[[], Any]) -> None:
    """Undo `halve` before a model is saved.

    Args:
        source: opens the model that it began as, whose float32 parameters the frozen ones get back.
    """
    for module in model.modules():
        module.__dict__.pop("weight", None)
        if module.__dict__.pop(_ROUNDED, False):
            module.weight.__dict__.pop(_SPARE, None)
    model.config._attn_implementation = "sdpa"
    if any(p.dtype != torch.float32 for p in model.parameters()):
        for halved, whole in zip(model.parameters(), source().parameters(), strict=True):
            if halved.dtype != whole.dtype:
                halved.data = whole.data.to(halved.device)
