"""Logits and log-probabilities by the output embedding, never for more tokens at once than fit into a little memory.

Where the engine computes in bfloat16, both factors of a product are rounded to bfloat16 and the sum is float32. A logit
that is itself rounded to bfloat16 would be wrong by up to a quarter at 80, where KL and ratio need thousandths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from plaudit.models.sharding import is_sharded

# Logits that exist together, where a gradient will ask for them again or on a GPU: 256 MB.
_LOGITS_WITH_GRADIENT = 2**26
_LOGITS = 2**22  # otherwise: 16 MB, which a cache holds
_SLICE = 2**21  # numbers of a weight that are converted together: what a cache still holds when they are multiplied
_MANY, _MULTIPLE = 512, 64  # from 512 tokens their number is a multiple of 64: oneDNN keeps something for every shape
_PACKED_FOR = 40  # rows for which a packed weight is laid out; other numbers of rows are multiplied as fast
_CAN_ROUND = hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")  # torch 2.9 and later


def chunk_size(vocabulary: int, device: torch.device, *, gradient: bool) -> int:
    """Tokens whose logits may exist together."""
    return max(1, logits_at_once(device, gradient=gradient) // vocabulary)


def logits_at_once(device: torch.device, *, gradient: bool) -> int:
    """Logits that may exist together."""
    return _LOGITS if device.type == "cpu" and not gradient else _LOGITS_WITH_GRADIENT


class Head:
    """The output embedding of a model; `rounded` says whether the factors of its products are rounded to bfloat16."""

    def __init__(self, lm: Any, rounded: bool) -> None:
        self._module, self.rounded = lm.get_output_embeddings(), rounded
        self._can_keep = not is_sharded(lm)
        self._packed: tuple[int, Tensor, Tensor] | None = None

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """The weight matrix."""
        return self._module.weight

    def logits(self, states: Float[Tensor, "N D"], temperature: float) -> Float[Tensor, "N V"]:
        """Logits divided by the temperature, in float32, without a gradient for the weight."""
        x, weight, bias = states.float() / temperature, self.weight.detach(), self._module.bias
        device = weight.device
        with _rounding(self.rounded and device.type == "cpu"), torch.autocast(device.type, enabled=False):
            if self._packed is not None and self._packed[0] == weight._version:
                logits = torch.ops.mkldnn._linear_pointwise(x, self._packed[1], None, "none", [], "")
            elif weight.dtype == torch.float32:
                logits = x @ weight.T
            else:
                logits = x.new_empty(len(x), len(weight))
                size = max(1, _SLICE // weight.shape[1])
                room = torch.empty(size, weight.shape[1], device=device)
                for start in range(0, len(weight), size):
                    part = weight[start : start + size]
                    logits[:, start : start + size] = x @ room[: len(part)].copy_(part).T
        return logits if bias is None else logits + bias / temperature

    def differentiable_logits(self, states: Float[Tensor, "N D"], temperature: float) -> Float[Tensor, "N V"]:
        """`logits` by operations of torch alone, with gradients for states, weight and bias."""
        with torch.autocast(states.device.type, enabled=False):
            bias = self._module.bias
            return F.linear(states.float(), self.weight.float(), None if bias is None else bias.float()) / temperature

    def logprobs(
        self,
        states: Float[Tensor, "N D"],
        tokens: Int[Tensor, "N"],
        temperature: float,
        weight: Float[Tensor, "V D"] | None = None,
    ) -> Float[Tensor, "N"]:
        """Log-probability of each token under the state that predicts it, in nats.

        `weight` gets the gradient in place of the weight itself: its half of a `TiedWeight`.
        """
        number, bias = len(tokens), self._module.bias
        if number >= _MANY:
            more = -number % _MULTIPLE
            states, tokens = F.pad(states, (0, 0, 0, more)), F.pad(tokens, (0, more))
        if torch.is_grad_enabled() and bias is None and not self.weight.requires_grad and self._can_keep:
            self._pack()
        weight = self.weight if weight is None else weight
        return _Logprobs.apply(states.float(), weight, bias, tokens, temperature, self)[:number]

    def _pack(self) -> None:
        """Lay out a frozen weight as oneDNN multiplies it, which a product of a few rows spends half its time on.

        For GPT-2 that is 230 MB, so not for a model that nothing learns through, such as a reference.
        """
        weight = self.weight.detach()
        stale = self._packed is None or self._packed[0] != weight._version
        if self.rounded and stale and _can_pack():
            reorder = torch.ops.mkldnn._reorder_linear_weight
            forward = reorder(weight.float(), _PACKED_FOR)
            self._packed = weight._version, forward, reorder(weight.bfloat16().T.contiguous(), _PACKED_FOR)

    def times_weight(self, x: Float[Tensor, "N V"]) -> Float[Tensor, "N D"]:
        """x W in float32, for a frozen weight."""
        if not self.rounded:
            return x @ self.weight.detach().float()
        if self._packed is None:
            return (x.bfloat16() @ self.weight.detach().bfloat16()).float()
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self._packed[2], None, "none", [], "").float()


class _Logprobs(torch.autograd.Function):
    """Log-probabilities of tokens, a chunk of tokens at a time; backward computes the logits of a chunk once more.

    Under a frozen weight the gradient of a log-probability with respect to its state, (W[token] - sum of p(v) W[v]) /
    temperature, does not depend on the gradient from above. It is computed while the logits exist, which are then
    needed only once.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float, head: Head
    ) -> Tensor:
        """states (N, D), weight (V, D), bias (V,) or None, tokens (N,); returns (N,)."""
        wants_states, wants_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        size = chunk_size(len(weight), weight.device, gradient=wants_weight)
        found, slopes = [], []
        for part, token in zip(states.split(size), tokens[:, None].split(size), strict=True):
            logp = torch.log_softmax(head.logits(part, temperature), dim=-1)
            found.append(logp.gather(1, token))
            if wants_states and not wants_weight:
                difference = logp.exp_().scatter_add_(1, token, -torch.ones_like(found[-1]))
                slopes.append(head.times_weight(difference))
        ctx.slopes = torch.cat(slopes).div_(-temperature) if slopes else None
        kept = logp if wants_weight and len(found) == 1 else None  # of the only chunk
        ctx.save_for_backward(states, weight, bias, tokens, kept)
        ctx.temperature, ctx.head, ctx.size = temperature, head, size
        return torch.cat(found).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of states (N, D), weight (V, D) and bias (V,)."""
        if ctx.slopes is not None:
            return ctx.slopes * gradient[:, None], None, None, None, None, None
        states, weight, bias, tokens, kept = ctx.saved_tensors
        of_states = torch.zeros_like(states) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for start in range(0, len(states), ctx.size):
            rows = slice(start, start + ctx.size)
            part, above = states[rows], gradient[rows, None]
            logp = kept if kept is not None else torch.log_softmax(ctx.head.logits(part, ctx.temperature), dim=-1)
            slope = logp.exp().mul_(-above).scatter_add_(1, tokens[rows, None], above).div_(ctx.temperature)
            if of_bias is not None:
                of_bias += slope.sum(0)
            back = None if of_states is None else of_states[rows]
            _add_products(slope, part, weight, back, of_weight, ctx.head.rounded, start == 0)
        return of_states, of_weight, of_bias, None, None, None


def _add_products(
    slope: Float[Tensor, "N V"],
    states: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    of_states: Tensor | None,
    of_weight: Tensor | None,
    rounded: bool,
    first: bool,
) -> None:
    """Add slope W to `of_states`, and slope^T states to `of_weight`, which the first call overwrites.

    A slice of the vocabulary at a time, so that what is converted is still in a cache when it is multiplied.
    """
    if rounded:
        slope, states = slope.bfloat16(), states.bfloat16()
    size = max(1, _SLICE // weight.shape[1])
    for start in range(0, len(weight), size):
        rows = slice(start, start + size)
        if of_states is not None:
            of_states += slope[:, rows] @ weight[rows].to(slope.dtype)
        if of_weight is None:
            continue
        if not first:
            of_weight[rows] += slope[:, rows].T @ states
        elif of_weight.dtype == slope.dtype:
            torch.mm(slope[:, rows].T, states, out=of_weight[rows])
        else:
            of_weight[rows] = slope[:, rows].T @ states


def _can_pack() -> bool:
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def _rounding(wanted: bool) -> Iterator[None]:
    """Within this context float32 products of a CPU with AMX round their factors to bfloat16."""
    if not (wanted and _CAN_ROUND):
        yield
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing from the stubs
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
