"""The heads: logits over the vocabulary, a value on the policy's trunk, and the reward model's score."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from plaudit.batches import Below
from plaudit.maths.logprobs import predicting, token_logprobs
from plaudit.models.precision import RoundedProduct, is_rounded, lay_out, times_embedding
from plaudit.models.trunk import hidden_states

# Logits that exist together. With a gradient, or on a GPU: 256 MB, 1,335 tokens of GPT-2's vocabulary.
LEARNED_AT_ONCE = 2**26
LOGITS_AT_ONCE = 2**22  # else: 16 MB, which is in a cache, and which glibc does not map anew each time
_MANY, _MULTIPLE = 512, 64  # so many tokens are made a multiple: oneDNN keeps something for every number of rows
_RIDGE = 0.01  # of the mean squared length of a centred feature


def in_float32(head: nn.Module, hidden: Float[Tensor, "*shape"]) -> Float[Tensor, "..."]:
    """A head's output computed in float32, also where the trunk runs in bfloat16.

    A logit of -80 has a bfloat16 neighbour at -80.5: half a nat, where KL and ratio need thousandths.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float())


def response_states(
    lm: Any,
    ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    response_mask: Bool[Tensor, "B R"],
    below: Below | None = None,
) -> Float[Tensor, "N D"]:
    """Last hidden states that predict the N response tokens; the last R columns of ids are the response's.

    Rows of the result follow `ids[:, -R:][response_mask]`.
    """
    return hidden_states(lm, ids, attention_mask, predicting(response_mask, ids.shape[1]), below)


def logits_of(lm: Any, states: Float[Tensor, "*N D"], temperature: float = 1.0) -> Float[Tensor, "*N V"]:
    """Logits over the vocabulary, divided by the temperature that sampling uses."""
    head = lm.get_output_embeddings()
    if is_rounded(head):
        return RoundedProduct.apply(states.float() / temperature, head.weight)
    logits = in_float32(head, states)
    return logits if temperature == 1 else logits / temperature


def response_logits(
    lm: Any,
    ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    response_mask: Bool[Tensor, "B R"],
    temperature: float = 1.0,
) -> Float[Tensor, "N V"]:
    """Logits that predict the N response tokens. All of them at once: for a few texts only."""
    return logits_of(lm, response_states(lm, ids, attention_mask, response_mask), temperature)


def logprobs_of(
    lm: Any, states: Float[Tensor, "N D"], tokens: Int[Tensor, "N"], temperature: float = 1.0
) -> Float[Tensor, "N"]:
    """Log probability of each token under the state that predicts it, in nats."""
    number, size = len(tokens), tokens_at_once(lm)
    if number >= _MANY:
        more = -number % _MULTIPLE
        states, tokens = F.pad(states, (0, 0, 0, more)), F.pad(tokens, (0, more))
    if torch.is_grad_enabled() and states.requires_grad and _is_frozen(lm.get_output_embeddings()):
        return _FrozenHead.apply(states, tokens, lm, temperature)[:number]
    said = in_parts(lambda part, its: token_logprobs(logits_of(lm, part, temperature), its), size, states, tokens)
    return said[:number]


def _is_frozen(head: nn.Module) -> bool:
    """Whether it is a plain matrix that does not learn, so that logits need not outlive their slopes."""
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad


class _FrozenHead(torch.autograd.Function):
    """Log probabilities of tokens under an output embedding that does not learn, a part of the tokens at a time.

    How a log probability moves with its state, (W[token] - sum of p(v) W[v]) / temperature, asks for no gradient from
    above. So it is taken while the logits are at hand: they are made once, and never leave the cache.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, lm: Any, temperature: float) -> Tensor:
        """states (N, D), tokens (N,); gives (N,)."""
        size, head = tokens_at_once(lm), lm.get_output_embeddings()
        lay_out(head)
        said, slopes = [], []
        for part, its in zip(states.split(size), tokens[:, None].split(size), strict=True):
            logp = torch.log_softmax(logits_of(lm, part, temperature), dim=-1)
            said.append(logp.gather(1, its))
            too_likely = logp.exp_().scatter_add_(1, its, -torch.ones_like(said[-1]))
            slopes.append(times_embedding(head, too_likely))
        ctx.save_for_backward(torch.cat(slopes).div_(-temperature))
        return torch.cat(said).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of states, (N, D)."""
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None, None, None


def tokens_at_once(lm: Any) -> int:
    """Tokens whose logits may exist together."""
    device = lm.get_output_embeddings().weight.device
    return max(1, logits_at_once(device, learned=torch.is_grad_enabled()) // lm.config.vocab_size)


def logits_at_once(device: torch.device, *, learned: bool) -> int:
    """Logits that may exist together: on a CPU fewer where nothing has to be computed again for a gradient."""
    return LOGITS_AT_ONCE if device.type == "cpu" and not learned else LEARNED_AT_ONCE


def in_parts(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """`function` of `size` rows at a time, joined: logits of more than that many tokens never exist together.

    Where a gradient is wanted, backward computes each part once more instead of keeping its logits.
    """
    if len(rows[0]) <= size:
        return function(*rows)
    parts = zip(*(x.split(size) for x in rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
    return torch.cat([function(*part) for part in parts])


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
        below: Below | None = None,
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"]]:
        """One trunk pass for both: states that predict the N response tokens, and the values before them."""
        states = response_states(self.lm, ids, attention_mask, response_mask, below)
        return states, in_float32(self.value_head, states).squeeze(-1)


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


def score_texts(
    reward_model: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"], below: Below | None = None
) -> Float[Tensor, "B"]:
    """(B,) logit of each sequence, read at its last token: the end token where there is one."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    last = (attention_mask * columns).argmax(1)
    hidden = hidden_states(reward_model, ids, attention_mask, columns == last[:, None], below)
    return in_float32(reward_model.score, hidden).squeeze(-1)
