"""The model families whose layers the fast engine runs one by one.

In these families attention is the only place where tokens meet, so a mask can keep several texts of one row apart. This
is not so for a recurrent or convolutional model, nor for one whose attention has a sliding window.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plaudit.models.fast.packing import STEP
from plaudit.models.layers import layers
from plaudit.models.sharding import is_sharded

# Names of the last norm, and of the argument by which a layer takes its key-value cache. Then those inside a layer:
# norm, attention, norm, feed-forward, where the last two read what the first two wrote; gpt_neox differs.
_LLAMA = ("norm", "past_key_values", ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"))
_NAMES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gpt2": ("ln_f", "past_key_values", ("ln_1", "attn", "ln_2", "mlp")),
    "gpt_neox": ("final_layer_norm", "layer_past", ()),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), _LLAMA),
}
ATTENTION = "plaudit"  # the attention of `precision`, by its name in transformers


def supports(model: Any) -> bool:
    """Whether the fast engine can run this model: a known family, full attention, in one of two implementations."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    known = model.config.model_type in _NAMES and kinds == {"full_attention"}
    return known and model.config._attn_implementation in ("sdpa", "eager", ATTENTION)


class TiedWeight(torch.autograd.Function):
    """A weight that is output and input embedding, as two: the gradient of the second has only a few rows.

    They are added to the gradient of the first in place. Autograd would make a third tensor of that size.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (V, D); returns it for the output, and for the input."""
        ctx.set_materialize_grads(False)
        return weight.detach(), weight.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor | None, rows: Tensor | None) -> Tensor | None:
        """Gradient (V, D), dense, of one that is dense and one that is sparse."""
        if rows is None:
            return output
        return rows.to_dense() if output is None else output.add_(rows)


def embed(
    lm: Any, ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], weight: Float[Tensor, "V D"] | None = None
) -> Float[Tensor, "B T D"]:
    """What enters the first layer, in float32; `weight` is the input embedding's half of a `TiedWeight`."""
    table = lm.get_input_embeddings().weight if weight is None else weight
    hidden = F.embedding(ids, table, sparse=weight is not None).float()
    return hidden + lm.base_model.wpe(positions).float() if lm.config.model_type == "gpt2" else hidden


def run_layers(
    lm: Any,
    hidden: Float[Tensor, "B T D"],
    which: tuple[int, int],
    mask: Bool[Tensor, "B 1 T S"],
    positions: Int[Tensor, "B T"],
    cache: Any = None,
) -> Float[Tensor, "B T D"]:
    """The layers from which[0] up to, not including, which[1], from the output of those below.

    Args:
        mask: True where a token may attend: at S tokens, those in the cache included.
        cache: keys and values of earlier tokens; every layer calls its `update`.
    """
    arguments = _arguments(lm, hidden, mask, positions, cache)
    for layer in list(layers(lm))[slice(*which)]:
        hidden = layer(hidden, **arguments)
    return hidden


def top_states(
    lm: Any,
    hidden: Float[Tensor, "B T D"],
    depth: int,
    places: Int[Tensor, "N"],
    mask: Bool[Tensor, "B 1 T S"],
    positions: Int[Tensor, "B T"],
    cache: Any = None,
) -> Float[Tensor, "N D"]:
    """Last hidden states of some tokens, in float32, from the output of the lowest `depth` layers for all tokens.

    `places` are their indices in the flattened (B, T). No other token attends to the output of the last layer, so its
    feed-forward part runs for these tokens only. A layer of a sharded model runs as a whole, as FSDP2 wants it.
    """
    arguments = _arguments(lm, hidden, mask, positions, cache)
    *lower, layer = list(layers(lm))[depth:]
    for each in lower:
        hidden = each(hidden, **arguments)
    number = len(places)
    places = F.pad(places, (0, -number % STEP))  # some token more than once, so that there are few shapes
    if (names := _NAMES[lm.config.model_type][2]) and not is_sharded(lm):
        norm, attention, next_norm, feed_forward = (getattr(layer, name) for name in names)
        attended = (hidden + attention(norm(hidden), **arguments)[0]).flatten(0, 1)[places]
        top = attended + feed_forward(next_norm(attended))
    else:
        top = layer(hidden, **arguments).flatten(0, 1)[places]
    return _last_norm(lm)(top[:number]).float()


def frozen_depth(lm: Any) -> int:
    """How many of the lowest layers are frozen, together with everything below them."""
    return _depth(not any(p.requires_grad for p in level) for level in _levels(lm))


def common_depth(lm: Any, other: Any) -> int:
    """How many of the lowest layers have the same parameters in memory; 0 if the embeddings are not the same."""
    levels = zip(_levels(lm), _levels(other), strict=False)
    return _depth([id(p) for p in ours] == [id(p) for p in theirs] for ours, theirs in levels)


def _levels(lm: Any) -> list[list[nn.Parameter]]:
    """Parameters of the embeddings, then of each layer."""
    stack, children = layers(lm), lm.base_model.children()
    below = [p for child in children if child is not stack and child is not _last_norm(lm) for p in child.parameters()]
    return [below, *(list(layer.parameters()) for layer in stack)]


def _depth(holds: Iterable[bool]) -> int:
    """How many layers it holds for without a gap, where the first of `holds` is about the embeddings."""
    return max(0, len(list(takewhile(bool, holds))) - 1)


def _last_norm(lm: Any) -> nn.Module:
    return getattr(lm.base_model, _NAMES[lm.config.model_type][0])


def _arguments(lm: Any, hidden: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> dict[str, Any]:
    """What a layer is called with besides the hidden states."""
    if lm.config._attn_implementation == "eager":  # it adds the mask to the attention logits
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    arguments: dict[str, Any] = {"attention_mask": mask, _NAMES[lm.config.model_type][1]: cache}
    if lm.config.model_type != "gpt2":
        arguments["position_embeddings"] = lm.base_model.rotary_emb(hidden, position_ids=positions)
    return arguments
