"""The fast engine: the same methods as `PlainEngine`, for families whose layers it knows."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Responses
from plaudit.files import writes
from plaudit.maths.logprobs import predicting
from plaudit.models.fast import generation
from plaudit.models.fast.activations import ActivationCache, key
from plaudit.models.fast.families import TiedWeight, common_depth, embed, frozen_depth, run_layers, top_states
from plaudit.models.fast.head import Head, chunk_size
from plaudit.models.fast.optimizer import SlicedAdamW
from plaudit.models.fast.packing import pack
from plaudit.models.fast.precision import matrices, restore, round_frozen
from plaudit.models.layers import layers
from plaudit.models.plain import TokenFigures, autocast, compare_logits, top_of_logits
from plaudit.models.sharding import collect, is_sharded, unsharded

_BYTES = 4  # of a token in the name of a text


class FastEngine:
    """Runs models of known families with packed batches, cached activations of frozen layers, and rounded products.

    Args:
        dtype: of the matrices. With bfloat16 the parameters are bfloat16 too, and the optimizer keeps master weights.
        folder: where activations lie that are too large for memory.
        round_matrices: False keeps the layers' parameters in float32 all the same: LoRA adapters are added to them.
    """

    def __init__(self, dtype: torch.dtype, folder: Path, *, round_matrices: bool = True) -> None:
        self.dtype, self._folder = dtype, folder
        self._parameters = dtype if round_matrices else torch.float32
        self._heads: WeakKeyDictionary[Any, Head] = WeakKeyDictionary()
        self._depths: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._caches: dict[int, ActivationCache] = {}

    def prepare(self, model: Any, *others: Any) -> None:
        """Set the number format, and find the frozen layers whose activations can be cached.

        The `others` read the same texts; they use the activations of `model` as far up as they have its layers.
        """
        if self.dtype != torch.float32:
            for each in (model, *others):
                round_frozen(each, self._parameters)
        common = [min(common_depth(model, other), len(layers(other)) - 1) for other in others]
        depth = min([frozen_depth(model), len(layers(model)) - 1, *common[:1]])
        depths = [depth, *(min(depth, each) for each in common)]
        self._depths.update(zip((model, *others), depths, strict=True))
        self._caches = {d: ActivationCache(model.config.hidden_size, self._folder) for d in sorted({*depths} - {0})}

    def remember(
        self,
        model: Any,
        texts: Sequence[Sequence[int]],
        progress: Callable[[float], None] = lambda share: None,
        in_turn: Callable[[Any, Any], Any] = lambda items, call: ((item, call(item)) for item in items),
    ) -> None:
        """Compute the activations of a data set, which every epoch reads again; `progress` gets the share that is done.

        They are computed before the first step, so that a step takes as long as the others. `in_turn` makes pairs of
        each item and what the call makes of it, whichever process computes it.
        """
        if depth := self._depth(model):
            done, batches = 0, self._caches[depth].expect(texts)
            whole = sum(len(text) for some in batches for text in some)
            for some, states in in_turn(batches, lambda some: self._of_frozen_layers(model, depth, some).cpu()):
                self._caches[depth].add(some, states.split(_lengths(some)))
                done += sum(map(len, some))
                progress(done / whole)

    def forget(self) -> None:
        """Drop the activations of all texts but those of data sets."""
        for cache in self._caches.values():
            cache.keep([], [])

    def optimizer(self, model: Any, groups: list[dict[str, Any]], **settings: Any) -> SlicedAdamW:
        """AdamW for a `Policy` or `RewardModel`; in bfloat16 its matrices that learn become bfloat16 here."""
        return SlicedAdamW(groups, list(matrices(model.network)), self._parameters, **settings)

    def clip_and_step(self, optimizer: SlicedAdamW, max_norm: float) -> float:
        """Clip the gradients to `max_norm` and take a step; nothing is changed where the norm is not finite."""
        norm = optimizer.gradient_norm()
        if norm < float("inf"):
            optimizer.step(scale=min(1.0, max_norm / (norm + 1e-6)))
        return norm

    def restore(self, model: Any, optimizer: torch.optim.Optimizer | None, source: Callable[[], Any]) -> None:
        """Give a model float32 parameters again: those of the optimizer, and of `source` where nothing learned.

        A sharded model is made whole, where it is saved.
        """
        collect(model, keep=writes())
        restore(model, optimizer, source)

    def hidden_states(
        self,
        model: Any,
        ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        wanted: Bool[Tensor, "B T"],
        embedding: Float[Tensor, "V D"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """Last hidden states, in float32, of the N tokens where `wanted` is True; for `embedding` see `embed`."""
        packed, depth = pack(ids, attention_mask), self._depth(model)
        with unsharded(model), autocast(model, self.dtype):
            if depth:
                hidden = packed.lay_out(self._cached(model, depth, ids, attention_mask))
            else:
                hidden = embed(model, packed.ids, packed.position_ids, embedding)
            places = packed.place[wanted[attention_mask]]
            return top_states(model, hidden, depth, places, packed.mask, packed.position_ids)

    def logprobs(
        self,
        lm: Any,
        ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B R"],
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N D"]]:
        """Log-probabilities of the N response tokens, in nats, and the hidden states that predict them."""
        head, embedding = self._head(lm), None
        tokens = ids[:, -response_mask.shape[1] :][response_mask]
        with unsharded(lm):
            weight = head.weight
            if weight.requires_grad and weight is lm.get_input_embeddings().weight:
                weight, embedding = TiedWeight.apply(weight)
            states = self.hidden_states(lm, ids, attention_mask, predicting(response_mask, ids.shape[1]), embedding)
            return head.logprobs(states, tokens, temperature, weight), states

    def compare(
        self, lm: Any, reference: Any, responses: Responses, temperature: float = 1.0, *, gradient: bool = False
    ) -> TokenFigures:
        """What `lm` and `reference` say about the N response tokens; `gradient` keeps the graph of what `lm` says."""
        ids, attention_mask, mask = responses.ids, responses.attention_mask, responses.response_mask
        wanted, head, ref_head = predicting(mask, ids.shape[1]), self._head(lm), self._head(reference)
        logits_of = head.differentiable_logits if gradient else head.logits
        size = chunk_size(len(head.weight), ids.device, gradient=gradient)
        with nullcontext() if gradient else torch.no_grad(), unsharded(reference), unsharded(lm):
            with torch.no_grad():
                ref_states = self.hidden_states(reference, ids, attention_mask, wanted)
            states = self.hidden_states(lm, ids, attention_mask, wanted)
            parts = [
                compare_logits(logits_of(some, temperature), ref_head.logits(others, temperature), tokens)
                for some, others, tokens in zip(
                    states.split(size), ref_states.split(size), responses.response_ids[mask].split(size), strict=True
                )
            ]
        logprobs, ref_logprobs, kl, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return TokenFigures(logprobs, ref_logprobs, kl, entropy, states)

    @torch.no_grad()
    def top_tokens(
        self, lm: Any, responses: Responses, number: int, temperature: float = 1.0
    ) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
        """The `number` likeliest tokens in the place of each of the N response tokens, and their log-probabilities."""
        ids, attention_mask = responses.ids, responses.attention_mask
        head = self._head(lm)
        size = chunk_size(len(head.weight), ids.device, gradient=False)
        with unsharded(lm):
            states = self.hidden_states(lm, ids, attention_mask, predicting(responses.response_mask, ids.shape[1]))
            parts = [top_of_logits(head.logits(some, temperature), number) for some in states.split(size)]
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
        """Continue every prompt until an end token, or until R tokens; see `PlainEngine.generate`."""
        head = self._head(lm)
        depths = tuple(d for d in self._caches if d <= self._depth(lm))
        logits_of = partial(head.logits, temperature=temperature)
        with autocast(lm, self.dtype):
            responses, outputs = generation.generate(
                lm, logits_of, prompt_ids, prompt_mask, noise, end_ids, pad_id, depths
            )
        texts = _keys(responses.ids, responses.attention_mask)
        for depth, states in zip(depths, outputs, strict=True):
            kept = [row[mask] for row, mask in zip(states, responses.attention_mask, strict=True)]
            self._caches[depth].keep(texts, kept)
        return responses

    def _head(self, lm: Any) -> Head:
        return self._heads.setdefault(lm, Head(lm, rounded=self.dtype == torch.bfloat16))

    def _depth(self, model: Any) -> int:
        """How many layers have cached activations. Processes that share a model run all layers, at the same time."""
        return 0 if is_sharded(model) else self._depths.get(model, 0)

    def _cached(self, model: Any, depth: int, ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "N D"]:
        """Output of the frozen layers for the N tokens of a batch; texts that have not been read run through them."""
        cache, texts = self._caches[depth], _keys(ids, attention_mask)
        if some := cache.missing(texts):
            cache.add(some, self._of_frozen_layers(model, depth, some).split(_lengths(some)))
        return cache.get(texts, ids.device)

    @torch.no_grad()
    def _of_frozen_layers(self, model: Any, depth: int, texts: tuple[bytes, ...]) -> Float[Tensor, "N D"]:
        """What the frozen layers make of the tokens of some texts, in one batch."""
        rows = [torch.frombuffer(bytearray(text), dtype=torch.int32).long() for text in texts]
        lengths, device = torch.tensor([len(row) for row in rows]), next(model.parameters()).device
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = torch.zeros(mask.shape, dtype=torch.long).masked_scatter_(mask, torch.cat(rows))
        packed = pack(padded.to(device), mask.to(device))
        with autocast(model, self.dtype):
            hidden = embed(model, packed.ids, packed.position_ids)
            hidden = run_layers(model, hidden, (0, depth), packed.mask, packed.position_ids)
        return packed.collect(hidden)


def _lengths(texts: Sequence[bytes]) -> list[int]:
    """Tokens of each text, by its name in an activation cache."""
    return [len(text) // _BYTES for text in texts]


def _keys(ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> list[bytes]:
    """The name of each row in an activation cache."""
    return [key(row[mask]) for row, mask in zip(ids.cpu().numpy(), attention_mask.cpu().numpy(), strict=True)]
