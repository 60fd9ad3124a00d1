"""The plain engine: log-probabilities, scores and generation with transformers and torch only.

It runs any causal language model that transformers can open: padded batches, the model's own forward pass,
`log_softmax`, and transformers' own key-value cache. `plaudit.models.fast` has the same methods, faster, for the
families that it knows; tests hold the two equal.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from plaudit.batches import Responses
from plaudit.files import writes
from plaudit.maths.kl import SAMPLED, kl_of_logprobs
from plaudit.maths.logprobs import entropy_of_logprobs, token_logprobs
from plaudit.models.sampling import sample_tokens
from plaudit.models.sharding import collect, is_sharded, is_share, local, norm, unsharded

_ROWS = 16  # rows whose logits over the vocabulary exist together where no gradient is needed


class TokenFigures(NamedTuple):
    """What a model and a reference say about N response tokens, in nats."""

    logprobs: Tensor  # (N,) of the tokens under the model
    ref_logprobs: Tensor  # (N,) under the reference
    kl: Tensor  # (N,) of the model from the reference, a sum over the vocabulary
    entropy: Tensor  # (N,) of the model's distribution
    states: Tensor  # (N, D) the model's last hidden states, which predict the tokens

    def estimate(self, name: str) -> Float[Tensor, "N"]:
        """(N,) KL at each token by the estimator of this name: k1, k2, k3 or full."""
        return self.kl if name == "full" else SAMPLED[name](self.logprobs, self.ref_logprobs)


class PlainEngine:
    """Runs models by their own forward pass; matrix products are in `dtype`, parameters and gradients in float32."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def prepare(self, *models: Any) -> None:
        """Nothing: the models run as they are."""

    def remember(self, model: Any, texts: list[list[int]], progress: Any = None, in_turn: Any = None) -> None:
        """Nothing: activations are not cached."""

    def forget(self) -> None:
        """Nothing, as for `remember`."""

    def optimizer(self, model: Any, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.AdamW:
        """torch's AdamW for the parameter groups of `model`."""
        return torch.optim.AdamW(groups, **settings, foreach=False if is_sharded(model) else None)

    def clip_and_step(self, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
        """Clip the gradients to `max_norm` and take a step, both only if their norm is finite; the norm."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        divided = any(map(is_share, gradients))
        size = (norm(gradients) if divided else nn.utils.get_total_norm(gradients)).item()
        if size < float("inf"):
            if not divided:
                nn.utils.clip_grad_norm_(parameters, max_norm)
            elif size > max_norm:
                for gradient in gradients:
                    local(gradient).mul_(max_norm / (size + 1e-6))
            optimizer.step()
        return size

    def restore(self, model: Any, optimizer: torch.optim.Optimizer | None, source: Callable[[], Any]) -> None:
        """Make a sharded model whole again where it is saved; its parameters are float32 already."""
        collect(model, keep=writes())

    def hidden_states(
        self, model: Any, ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"], wanted: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "N D"]:
        """Last hidden states, in float32, of the N tokens where `wanted` is True."""
        with unsharded(model), autocast(model, self.dtype):
            output = model.base_model(**_inputs(model.base_model, ids, attention_mask), use_cache=False)
        return output.last_hidden_state[wanted].float()

    def logprobs(
        self,
        lm: Any,
        ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B R"],
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N D"]]:
        """Log-probabilities of the N response tokens, in nats, and the hidden states that predict them.

        The order is that of `ids[:, -R:][response_mask]`.
        """
        logits, states = self.response_logits(lm, ids, attention_mask, response_mask, temperature)
        tokens = ids[:, -response_mask.shape[1] :][response_mask]
        return token_logprobs(logits, tokens), states

    def compare(
        self, lm: Any, reference: Any, responses: Responses, temperature: float = 1.0, *, gradient: bool = False
    ) -> TokenFigures:
        """What `lm` and `reference` say about the N response tokens; `gradient` keeps the graph of what `lm` says."""
        with nullcontext() if gradient else torch.no_grad():
            return self._compare(lm, reference, responses, temperature)

    def _compare(self, lm: Any, reference: Any, responses: Responses, temperature: float) -> TokenFigures:
        parts = []
        batch = (responses.ids, responses.attention_mask, responses.response_mask)
        # Processes that share a model make as many passes, however many rows they have.
        rows = len(responses.ids) if is_sharded(lm) else _ROWS
        for ids, attention_mask, mask in zip(*(tensor.split(rows) for tensor in batch), strict=True):
            logits, states = self.response_logits(lm, ids, attention_mask, mask, temperature)
            with torch.no_grad():
                ref_logits, _ = self.response_logits(reference, ids, attention_mask, mask, temperature)
            parts.append((*compare_logits(logits, ref_logits, ids[:, -mask.shape[1] :][mask]), states))
        return TokenFigures(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def top_tokens(
        self, lm: Any, responses: Responses, number: int, temperature: float = 1.0
    ) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
        """The `number` likeliest tokens in the place of each of the N response tokens, and their log-probabilities."""
        parts = []
        batch = (responses.ids, responses.attention_mask, responses.response_mask)
        for ids, attention_mask, mask in zip(*(tensor.split(_ROWS) for tensor in batch), strict=True):
            logits, _ = self.response_logits(lm, ids, attention_mask, mask, temperature)
            parts.append(top_of_logits(logits, number))
        logprobs, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
        return logprobs, tokens

    @torch.no_grad()
    def generate(
        self,
        lm: Any,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        noise: Float64[Tensor, "B R"],
        end_ids: Sequence[int],
        pad_id: int,
        temperature: float = 1.0,
    ) -> Responses:
        """Continue every prompt until an end token, or until R tokens.

        Args:
            prompt_ids, prompt_mask: prompts padded on the left.
            noise: (B, R) numbers in [0, 1), one for each token that may be drawn; R limits the response length.
        """
        ids, mask, cache = prompt_ids, prompt_mask, None
        running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        ends = torch.tensor(end_ids, device=ids.device)
        for u in noise.unbind(1):
            inputs = _inputs(lm, ids if cache is None else ids[:, -1:], mask)
            if _takes(lm, "past_key_values"):  # otherwise the model reads the whole text again for each token
                inputs |= {"past_key_values": cache, "use_cache": True}
            with autocast(lm, self.dtype), _float32_output(lm, self.dtype):
                output = lm(**inputs)
            cache = getattr(output, "past_key_values", None)
            logits = output.logits[:, -1].float() / temperature
            token = sample_tokens(logits, u).masked_fill(~running, pad_id)
            ids, mask = torch.cat([ids, token[:, None]], dim=1), torch.cat([mask, running[:, None]], dim=1)
            running = running & ~torch.isin(token, ends)
            if not running.any():
                break
        return Responses(ids, mask, mask[:, prompt_ids.shape[1] :], ~running)

    def response_logits(
        self, lm: Any, ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
    ) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N D"]]:
        """Logits divided by the temperature, and states, in float32, that predict the N response tokens."""
        inputs, positions = _inputs(lm, ids, attention_mask), response_mask.shape[1] + 1
        if _takes(lm, "logits_to_keep"):
            inputs["logits_to_keep"] = positions
        with unsharded(lm), autocast(lm, self.dtype), _float32_output(lm, self.dtype):
            output = lm(**inputs, output_hidden_states=True)
        logits, states = (x[:, -positions:-1][response_mask].float() for x in (output.logits, output.hidden_states[-1]))
        return logits / temperature, states


def autocast(model: nn.Module, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """The context in which the matrix products of `model` are in `dtype`."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)


def compare_logits(
    logits: Float[Tensor, "N V"], ref_logits: Float[Tensor, "N V"], tokens: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"]]:
    """The first four figures of a `TokenFigures` from the logits that predict the tokens."""
    logp, ref_logp = torch.log_softmax(logits, dim=-1), torch.log_softmax(ref_logits, dim=-1)
    logprobs, ref_logprobs = (x.gather(1, tokens[:, None]).squeeze(1) for x in (logp, ref_logp))
    return logprobs, ref_logprobs, kl_of_logprobs(logp, ref_logp), entropy_of_logprobs(logp)


def top_of_logits(logits: Float[Tensor, "N V"], number: int) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The likeliest tokens, of which there are at most V, and their log-probabilities; the likeliest first."""
    found = torch.log_softmax(logits, dim=-1).topk(min(number, logits.shape[1]))
    return found.values, found.indices


def position_ids(attention_mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Position of each token among the attended ones, so that left padding does not shift positions."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def _float32_output(lm: Any, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Compute the output embedding in float32 where the layers run in bfloat16: there a logit of 80 is off by 0.25."""

    def recompute(head: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            return nn.functional.linear(inputs[0].float(), head.weight.float(), head.bias)

    if dtype == torch.float32:
        return nullcontext()
    return lm.get_output_embeddings().register_forward_hook(recompute)  # leaving the context removes the hook


def _inputs(model: Any, ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    """Arguments of a forward pass over `ids`, the last columns of `attention_mask`, as far as the model takes them."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": attention_mask.long()}
    if _takes(model, "position_ids"):
        inputs["position_ids"] = position_ids(attention_mask)[:, -ids.shape[1] :]
    return inputs


def _takes(model: Any, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
