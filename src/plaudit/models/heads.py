"""The two heads: a value head on the policy's trunk, and the reward model's score."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.models.packing import PACKABLE, pack
from plaudit.objectives.logprobs import predicting

_RIDGE = 0.01  # of the mean squared length of a centred feature
_BLOCKS_AND_NORM = {"gpt2": ("h", "ln_f"), **dict.fromkeys(("llama", "qwen2", "qwen3"), ("layers", "norm"))}


def position_ids(attention_mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """(B, T) each token's place among the attended ones: left padding must not shift positions."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def hidden_states(lm: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """(B, T, D) last hidden states of a causal model's trunk, by rows without padding where the family allows it."""
    if lm.config.model_type not in PACKABLE:
        return padded_hidden_states(lm, ids, attention_mask)
    packed = pack(ids, attention_mask)
    output = lm.base_model(
        input_ids=packed.ids, attention_mask=packed.mask, position_ids=packed.position_ids, use_cache=False
    )
    return packed.unpack(output.last_hidden_state, *ids.shape)


def padded_hidden_states(
    lm: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """The same by the plain path, one text a row; what it gives at padding means nothing."""
    output = lm.base_model(
        input_ids=ids,
        attention_mask=attention_mask.long(),
        position_ids=position_ids(attention_mask),
        use_cache=False,
    )
    return output.last_hidden_state


def in_float32(head: nn.Module, hidden: Float[Tensor, "*shape"]) -> Float[Tensor, "..."]:
    """A head's output computed in float32, also where the trunk runs in bfloat16.

    A logit of -80 has a bfloat16 neighbour at -80.5: half a nat, where KL and ratio need thousandths.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float())


def response_logits(
    lm: Any,
    ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    response_mask: Bool[Tensor, "B R"],
    temperature: float = 1.0,
) -> Float[Tensor, "N V"]:
    """Logits that predict the N response tokens, divided by the temperature that sampling uses.

    The last R columns of ids are the response's. Rows of the result follow `ids[:, -R:][response_mask]`; the
    output embedding is applied to these positions only.
    """
    hidden = predicting(hidden_states(lm, ids, attention_mask), response_mask)
    return in_float32(lm.get_output_embeddings(), hidden) / temperature


class Policy(nn.Module):
    """A causal language model with a value head on the same trunk.

    The value head starts at exactly zero: before it has learned anything it must not speak.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        self.value_head = nn.Linear(lm.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B R"],
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N"]]:
        """One trunk pass for both: logits that predict the N response tokens, and the values before them."""
        hidden = predicting(hidden_states(self.lm, ids, attention_mask), response_mask)
        logits = in_float32(self.lm.get_output_embeddings(), hidden) / temperature
        return logits, in_float32(self.value_head, hidden).squeeze(-1)


def freeze_below(lm: Any, train_layers: int) -> None:
    """Let only the top blocks of a causal model and its last norm learn; 0 leaves all of it free.

    The embeddings stay as they are, and with them an output embedding that is tied to them.

    Raises:
        ModelError: the family's blocks are not known, or there are fewer.
    """
    if not train_layers:
        return
    names = _BLOCKS_AND_NORM.get(lm.config.model_type)
    if names is None:
        raise ModelError(f"train_layers = {train_layers}: the blocks of a {lm.config.model_type} are not known; use 0")
    blocks, norm = (getattr(lm.base_model, name) for name in names)
    if train_layers > len(blocks):
        raise ModelError(f"train_layers = {train_layers}: the model has {len(blocks)} blocks; use 0 to train them all")
    lm.requires_grad_(False)
    for part in (*blocks[-train_layers:], norm):
        part.requires_grad_(True)


def fit_value_head(policy: Policy, states: Float[Tensor, "N D"], returns: Float[Tensor, "N"]) -> None:
    """Set the value head to the ridge regression of returns on the states that precede their tokens.

    PPO that starts from a silent critic spends its first iterations on noise: the advantage of a token is then the
    whole score, whatever its prompt was worth.
    """
    x, y = states.double(), returns.double()
    centred, wanted = x - x.mean(0), y - y.mean()
    gram = centred.T @ centred
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram + ridge, centred.T @ wanted)
    with torch.no_grad():
        policy.value_head.weight.copy_(weight[None])
        policy.value_head.bias.copy_(y.mean() - x.mean(0) @ weight)


def initialise_score_head(reward_model: Any, weights: Float[Tensor, "1 D"]) -> None:
    """Set the linear head to N(0, 1/(d + 1)) from standard normal `weights`. Source: Stiennon et al. 2020."""
    with torch.no_grad():
        reward_model.score.weight.copy_(weights / (weights.shape[1] + 1) ** 0.5)


def score_texts(reward_model: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """(B,) logit of each sequence, read at its last token: the end token where there is one."""
    hidden = hidden_states(reward_model, ids, attention_mask)
    columns = torch.arange(ids.shape[1], device=ids.device)
    last = (attention_mask * columns).argmax(1)
    return in_float32(reward_model.score, hidden[torch.arange(len(ids), device=ids.device), last]).squeeze(-1)
