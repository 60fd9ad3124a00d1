"""The two heads: a value head on the policy's trunk, and the reward model's score."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plaudit.objectives.logprobs import predicting


def position_ids(attention_mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """(B, T) each token's place among the attended ones: left padding must not shift positions."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def hidden_states(lm: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """(B, T, D) last hidden states of a causal model's trunk."""
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
    lm: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"], n: int, temperature: float = 1.0
) -> Float[Tensor, "B n V"]:
    """Logits that predict the last n tokens, divided by the temperature that sampling uses.

    The output embedding is applied to these n positions only.
    """
    hidden = predicting(hidden_states(lm, ids, attention_mask), n)
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
        self, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"], n: int, temperature: float = 1.0
    ) -> tuple[Float[Tensor, "B n V"], Float[Tensor, "B n"]]:
        """One trunk pass for both: logits that predict the last n tokens, and the values before them."""
        hidden = predicting(hidden_states(self.lm, ids, attention_mask), n)
        logits = in_float32(self.lm.get_output_embeddings(), hidden) / temperature
        return logits, in_float32(self.value_head, hidden).squeeze(-1)


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
