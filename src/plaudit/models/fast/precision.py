"""Number formats: bfloat16 matrices with float32 master weights in the optimizer; on a CPU, float32 attention."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from plaudit.models.fast.families import ATTENTION

MASTER = "master"  # the float32 weights of a bfloat16 parameter, in the optimizer's state


def matrices(model: Any) -> Iterator[Any]:
    """The weight matrices of the backbone and the output embedding, without the heads for value and score."""
    is_lm = hasattr(model, "lm_head") or hasattr(model, "embed_out")
    for module in [*model.base_model.modules(), *([model.get_output_embeddings()] if is_lm else [])]:
        if isinstance(module, (nn.Linear, Conv1D, nn.Embedding)):
            yield module.weight


@torch.no_grad()
def round_frozen(model: Any, dtype: torch.dtype) -> None:
    """Keep the frozen matrices of a model in `dtype` alone, and let its attention run in float32 on a CPU.

    Matrices that learn are rounded when the optimizer is made, which keeps their float32 weights.
    """
    if model.config._attn_implementation == "sdpa":
        model.config._attn_implementation = ATTENTION
    for weight in matrices(model):
        if not weight.requires_grad and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)


@torch.no_grad()
def restore(model: Any, optimizer: torch.optim.Optimizer | None, source: Callable[[], Any]) -> None:
    """Make a model one of float32 parameters again, with transformers' own attention.

    The optimizer has the master weights of what learned; `source` opens the model that the frozen matrices came from.
    """
    if model.config._attn_implementation == ATTENTION:
        model.config._attn_implementation = "sdpa"
    learned = {} if optimizer is None else optimizer.state
    rounded = {name: p for name, p in model.named_parameters() if p.dtype != torch.float32}
    whole = dict(source().named_parameters()) if any(p not in learned for p in rounded.values()) else {}
    for name, parameter in rounded.items():
        weights = learned[parameter][MASTER] if parameter in learned else whole[name]
        parameter.grad = None
        parameter.data = weights.detach().to(parameter.device, torch.float32)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """transformers' attention (B, H, T, E). A CPU takes twice as long for it in bfloat16, so there it is in float32."""
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    with torch.autocast("cpu", enabled=False):
        whole = (x.float() for x in (query, key, value))
        output, _ = sdpa_attention_forward(module, *whole, attention_mask, **arguments)
    return output.to(value.dtype), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
