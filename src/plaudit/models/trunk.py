"""The trunk of a causal model block by block: whole, or cut where its frozen part ends.

Blocks that do not learn say the same of a text for ever. So the lowest `depth` blocks are run once, what they leave is
kept (`Below`), and everything that is computed afterwards begins there: the policy in every epoch, the reference, and
the reward model, which may have left the trunk lower down.
"""

from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plaudit.batches import Below
from plaudit.errors import ModelError
from plaudit.models.packing import STEP, Packed, pack

# Names of the blocks, of the last norm, and of what a block calls its cache. In these families attention is the only
# place where tokens meet, so that a mask can keep several texts of one row apart. That is not so of a recurrent or
# convolutional model, nor of one whose attention looks at a window of its own.
_PARTS = {
    "gpt2": ("h", "ln_f", "past_key_values"),
    "gpt_neox": ("layers", "final_layer_norm", "layer_past"),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), ("layers", "norm", "past_key_values")),
}
# Inside a block: norm, attention, norm, feed-forward, the last two on what the first two made. (Not so in gpt_neox.)
_INSIDE = {
    "gpt2": ("ln_1", "attn", "ln_2", "mlp"),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")),
}
ROUNDED_GRADIENT = "rounded_grad"  # where `rounded_gradient` looks


def by_blocks(lm: Any) -> bool:
    """Whether the blocks of this family are known to us, and all of them look at the whole text."""
    kinds = set(getattr(lm.config, "layer_types", None) or ["full_attention"])
    return lm.config.model_type in _PARTS and kinds == {"full_attention"}


def frozen_blocks(lm: Any, train_layers: int, setting: str = "train_layers") -> int:
    """How many of the lowest blocks do not learn when the top `train_layers` do; 0 when all learn.

    Args:
        setting: what a message calls it.

    Raises:
        ModelError: the family's blocks are not known, or there are fewer.
    """
    if not train_layers:
        return 0
    if not by_blocks(lm):
        raise ModelError(
            f"{setting} = {train_layers}: the blocks of a {lm.config.model_type} are not known "
            f"(those of {', '.join(_PARTS)} are); use 0 to train all"
        )
    total = len(blocks(lm))
    if train_layers > total:
        raise ModelError(f"{setting} = {train_layers}: the model has {total} blocks; use 0 to train them all")
    return total - train_layers


def freeze_below(lm: Any, train_layers: int, setting: str = "train_layers") -> int:
    """Let only the top blocks of a causal model and its last norm learn; 0 leaves all of it free.

    The embeddings stay as they are, and with them an output embedding that is tied to them.

    Returns:
        the number of frozen blocks.

    Raises:
        ModelError: the family's blocks are not known, or there are fewer.
    """
    depth = frozen_blocks(lm, train_layers, setting)
    if train_layers:
        lm.requires_grad_(False)
        for part in (*blocks(lm)[depth:], _norm(lm)):
            part.requires_grad_(True)
    return depth


def share_below(owner: Any, other: Any, depth: int) -> int:
    """Let `other` use the embeddings and lowest blocks of `owner`, up to the first that does not say the same.

    Args:
        depth: not more blocks than these.

    Returns:
        how many are shared now: what they leave of a text is true for both.
    """
    if not depth or type(owner.base_model) is not type(other.base_model):
        return 0
    ours, theirs = owner.base_model, other.base_model
    names = [name for name, child in ours.named_children() if isinstance(child, nn.Embedding)]
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    if len(blocks(owner)) != len(blocks(other)) or not all(_same(a, b) for a, b in pairs):
        return 0
    both = zip(blocks(owner)[:depth], blocks(other)[:depth], strict=True)
    shared = len(list(takewhile(lambda pair: _same(*pair), both)))
    for name in names:
        setattr(theirs, name, getattr(ours, name))
    for i in range(shared):
        blocks(other)[i] = blocks(owner)[i]
    other.tie_weights()
    return shared


def _same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def position_ids(attention_mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """(B, T) each token's place among the attended ones: left padding must not shift positions."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def hidden_states(
    lm: Any,
    ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    wanted: Bool[Tensor, "B T"],
    below: Below | None = None,
) -> Float[Tensor, "N D"]:
    """(N, D) last hidden states of `ids[wanted]`, by rows without padding where the family allows it.

    Args:
        wanted: True for tokens, never for padding.
        below: what the lowest blocks left; where it has a depth, they are not run again.
    """
    if not by_blocks(lm):
        return padded_hidden_states(lm, ids, attention_mask)[wanted]
    packed = pack(ids, attention_mask)
    depth, hidden = _begin(lm, packed, below)
    return top_states(lm, hidden, depth, packed.place[wanted[attention_mask]], packed.mask, packed.position_ids)


@torch.no_grad()
def states_below(
    lm: Any, depth: int, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"], below: Below | None = None
) -> Below:
    """What the lowest `depth` blocks make of a batch.

    Args:
        below: what fewer blocks left; these are not run again.
    """
    if not depth:
        return Below.nothing(ids)
    packed = pack(ids, attention_mask)
    start, hidden = _begin(lm, packed, below)
    hidden = run_blocks(lm, hidden, (start, depth), packed.mask, packed.position_ids)
    return Below(packed.unpack(hidden, *ids.shape), depth)


def _begin(lm: Any, packed: Packed, below: Below | None) -> tuple[int, Float[Tensor, "K C D"]]:
    """How many blocks have been run, and what enters the next."""
    if below is None or not below.depth:
        return 0, embed(lm, packed.ids, packed.position_ids)
    return below.depth, packed.lay_out(below.states)


def padded_hidden_states(
    lm: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """The same by the plain path, the model's own code and one text a row; what it gives at padding means nothing."""
    output = lm.base_model(
        input_ids=ids,
        attention_mask=attention_mask.long(),
        position_ids=position_ids(attention_mask),
        use_cache=False,
    )
    return output.last_hidden_state


def rounded_gradient(weight: Tensor) -> Tensor | None:
    """The gradient of an output embedding that learns, where its product left it in bfloat16; else None.

    torch wants a gradient at weight.grad to be of the weight's own format.
    """
    return weight.__dict__.get(ROUNDED_GRADIENT)


def _rows_of_tied(ids: Int[Tensor, "B T"], weight: Tensor) -> Float[Tensor, "B T D"]:
    """Rows of a weight that learns and is the output embedding too.

    Its gradient from the output is there already, dense, when that from the input arrives: a few rows, which are added
    to it in place. Left to itself autograd makes a second dense gradient and a third for their sum: half a gigabyte a
    step for GPT-2. This is for `backward()` in one process: torch.autograd.grad does not see these rows, and gradients
    that are reduced over processes when they are made would be reduced without them.
    """
    hidden = F.embedding(ids, weight.detach()).requires_grad_()

    def add(gradient: Tensor) -> None:
        its = weight.grad if rounded_gradient(weight) is None else rounded_gradient(weight)
        if its is None:  # nothing comes from the output
            its = weight.grad = torch.zeros_like(weight)
        its.index_add_(0, ids.flatten(), gradient.flatten(0, -2).to(its.dtype))

    hidden.register_hook(add)
    return hidden


def embed(lm: Any, ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """What enters the first block."""
    weight = lm.get_input_embeddings().weight
    tied = weight is getattr(lm.get_output_embeddings(), "weight", None)
    learns = tied and weight.requires_grad and torch.is_grad_enabled()
    hidden = _rows_of_tied(ids, weight) if learns else F.embedding(ids, weight).float()
    return hidden + lm.base_model.wpe(positions) if lm.config.model_type == "gpt2" else hidden


def run_blocks(
    lm: Any,
    hidden: Float[Tensor, "B T D"],
    which: tuple[int, int],
    mask: Bool[Tensor, "B 1 T S"],
    positions: Int[Tensor, "B T"],
    cache: Any = None,
) -> Float[Tensor, "B T D"]:
    """The blocks from which[0] up to, not including, which[1].

    Args:
        hidden: what the blocks below these left.
        mask: True where a token may look: at S tokens, those in the cache included.
        cache: keys and values of earlier tokens; its `update` is called by every block.
    """
    given = _given(lm, hidden, mask, positions, cache)
    for block in list(blocks(lm))[slice(*which)]:
        hidden = block(hidden, **given)
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
    """Last hidden states of some tokens, from what the lowest `depth` blocks left of all.

    Nobody looks at what leaves the last block, so that its feed-forward part is run for the tokens asked for alone.

    Args:
        depth: fewer than all.
        places: where these are in the flattened (B, T).
        mask, positions, cache: as `run_blocks` takes them.
    """
    given = _given(lm, hidden, mask, positions, cache)
    *lower, block = list(blocks(lm))[depth:]
    for each in lower:
        hidden = each(hidden, **given)
    number = len(places)
    places = F.pad(places, (0, -number % STEP))  # with a token more than once, for there to be few shapes
    if lm.config.model_type in _INSIDE:
        norm, attention, next_norm, feed_forward = (getattr(block, name) for name in _INSIDE[lm.config.model_type])
        attended = (hidden + attention(norm(hidden), **given)[0]).flatten(0, 1)[places]
        top = attended + feed_forward(next_norm(attended))
    else:
        top = block(hidden, **given).flatten(0, 1)[places]
    return _norm(lm)(top[:number])


def _given(lm: Any, hidden: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> dict[str, Any]:
    """What a block is called with besides the states."""
    given: dict[str, Any] = {"attention_mask": mask, _PARTS[lm.config.model_type][2]: cache}
    if lm.config.model_type != "gpt2":
        given["position_embeddings"] = lm.base_model.rotary_emb(hidden, position_ids=positions)
    return given


def blocks(lm: Any) -> nn.ModuleList:
    """The blocks of a known family, lowest first."""
    return getattr(lm.base_model, _PARTS[lm.config.model_type][0])


def _norm(lm: Any) -> nn.Module:
    return getattr(lm.base_model, _PARTS[lm.config.model_type][1])
