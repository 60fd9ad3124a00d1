"""The trainable models: a policy with its value head, and a reward model. Both are plain modules.

All trainable layers run inside `forward`, so that gradients, hooks and DistributedDataParallel work.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plaudit.maths.masked import float64, unflatten

_RIDGE = 0.01  # ridge coefficient, as a fraction of the mean squared norm of a centred feature


class Policy(nn.Module):
    """A causal language model, with a value head (critic) on its last hidden state if the algorithm needs one.

    A `PlainEngine` or a `FastEngine` runs it. The value head starts at exactly zero, because an untrained critic must
    not add noise.
    """

    def __init__(self, lm: Any, engine: Any, *, value_head: bool = True) -> None:
        super().__init__()
        self.lm, self.engine = lm, engine
        head = lm.get_output_embeddings()
        width = lm.config.hidden_size if head is None else head.weight.shape[1]  # OPT-350M's states are narrower
        # Skip torch's initialisation, which would draw from the global generator.
        self.value_head = nn.utils.skip_init(nn.Linear, width, 1) if value_head else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    @property
    def network(self) -> Any:
        """The language model."""
        return self.lm

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B R"],
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"] | None]:
        """Log-probabilities of the response tokens in nats, and the value before each token; zero outside the response.

        The last R columns of `ids` are the response. The temperature divides the logits, as in sampling. Without a
        value head there are no values.
        """
        logprobs, states = self.engine.logprobs(self.lm, ids, attention_mask, response_mask, temperature)
        values = None
        if self.value_head is not None:
            values = unflatten(self.value_head(states).squeeze(-1), response_mask)
        return unflatten(logprobs, response_mask), values


class RewardModel(nn.Module):
    """A sequence classifier with one label: a backbone with a linear head `score`. Its logit is the score of a text."""

    def __init__(self, classifier: Any, engine: Any) -> None:
        super().__init__()
        self.classifier, self.engine = classifier, engine

    @property
    def network(self) -> Any:
        """The classifier."""
        return self.classifier

    def forward(self, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        """(B,) logit of each sequence at its last token, which is the end token if the sequence has one."""
        hidden = self.engine.hidden_states(self.classifier, ids, attention_mask, last_token(attention_mask))
        return self.classifier.score(hidden).squeeze(-1)


def last_token(attention_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last token of each sequence."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return columns == (attention_mask * columns).argmax(1, keepdim=True)


@torch.no_grad()
def fit_value_head(policy: Policy, states: Float[Tensor, "N D"], returns: Float[Tensor, "N"]) -> None:
    """Set the value head to the ridge regression of returns on the hidden state before each token.

    With a value head at zero, PPO spends its first iterations on noise: the advantage of a token is then the whole
    score, even if the prompt alone explains most of it.
    """
    assert policy.value_head is not None
    weight, bias = ridge_regression(states, returns)
    policy.value_head.weight.copy_(weight[None])
    policy.value_head.bias.copy_(bias)


def ridge_regression(x: Float[Tensor, "N D"], y: Float[Tensor, "N"]) -> tuple[Float[Tensor, "D"], Float[Tensor, ""]]:
    """Weight and bias, as float64, of the linear prediction of y from x."""
    x, y = float64(x), float64(y)
    centred = x - x.mean(0)
    gram = centred.T @ centred
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram + ridge, centred.T @ (y - y.mean()))
    return weight, y.mean() - x.mean(0) @ weight


@torch.no_grad()
def initialise_score_head(classifier: Any, normals: Float[Tensor, "1 D"]) -> None:
    """Set the linear head to N(0, 1/(d + 1)) from standard normal numbers. Source: Stiennon et al. 2020."""
    classifier.score.weight.copy_(normals / (normals.shape[1] + 1) ** 0.5)
