"""The fast engine: the same methods as `PlainEngine`, for families whose layers it knows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from plaudit.batches import Responses
from plaudit.maths.logprobs import predicting
from plaudit.models.fast import generation
from plaudit.models.fast.activations import ActivationCache, key
from plaudit.models.fast.families import TiedWeight, common_depth, embed, frozen_depth, run_layers, top_states
from plaudit.models.fast.head import Head, chunk_size
from plaudit.models.fast.optimizer import SlicedAdamW
from plaudit.models.fast.packing import Packed, pack
from plaudit.models.fast.precision import matrices, restore, round_frozen
from plaudit.models.layers import layers
from plaudit.models.plain import Comparison, autocast, compare_logits


class FastEngine:
    """Runs models of known families with packed batches, cached activations of frozen layers, and rounded products.

    Args:
        dtype: number format of the matrices. With bfloat16 the parameters are bfloat16 too, and the optimizer keeps
            float32 master weights.
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

        Args:
            model: the model that learns, or whose responses are measured.
            others: models that read the same texts; they use its activations as far up as they have its layers.
        """
        for each in (model, *others):
            if self.dtype != torch.float32:
                round_frozen(each, self._parameters)
        depth = min([frozen_depth(model), len(layers(model)) - 1])
        for place, other in enumerate(others):
            common = min(common_depth(model, other), len(layers(other)) - 1)
            depth = min(depth, common) if place == 0 else depth
            self._depths[other] = min(depth, common)
        self._depths[model] = depth
        self._caches = {
            d: ActivationCache(model.config.hidden_size, self._folder)
            for d in sorted({self._depths[each] for each in (model, *others)} - {0})
        }

    def remember(self, model: Any, texts: Sequence[Sequence[int]]) -> None:
        """Cache the activations of a data set, which every epoch reads again."""
        if depth := self._depths[model]:
            self._caches[depth].expect(texts)

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
        """Give a model float32 parameters again: those of the optimizer, and of `source` where nothing learned."""
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
        packed = pack(ids, attention_mask)
        with autocast(model, self.dtype):
            depth, hidden = self._lower_layers(model, ids, attention_mask, packed, embedding)
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
        weight = head.weight
        if weight.requires_grad and weight is lm.get_input_embeddings().weight:
            weight, embedding = TiedWeight.apply(weight)
        states = self.hidden_states(lm, ids, attention_mask, predicting(response_mask, ids.shape[1]), embedding)
        tokens = ids[:, -response_mask.shape[1] :][response_mask]
        return head.logprobs(states, tokens, temperature, weight), states

    @torch.no_grad()
    def compare(self, lm: Any, reference: Any, responses: Responses, temperature: float = 1.0) -> Comparison:
        """What `lm` and `reference` say about the N response tokens."""
        ids, attention_mask, mask = responses.ids, responses.attention_mask, responses.response_mask
        wanted = predicting(mask, ids.shape[1])
        states, ref_states = (self.hidden_states(m, ids, attention_mask, wanted) for m in (lm, reference))
        head, ref_head = self._head(lm), self._head(reference)
        size = chunk_size(len(head.weight), ids.device, gradient=False)
        parts = [
            compare_logits(head.logits(some, temperature), ref_head.logits(others, temperature), tokens)
            for some, others, tokens in zip(
                states.split(size), ref_states.split(size), responses.response_ids[mask].split(size), strict=True
            )
        ]
        logprobs, ref_logprobs, kl, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return Comparison(logprobs, ref_logprobs, kl, entropy, states)

    @torch.no_grad()
    def generate(
        self,
        lm: Any,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Bool[Tensor, "B P"],
        noise: Float64[Tensor, "B R"],
        eos_id: int,
        pad_id: int,
        temperature: float = 1.0,
    ) -> Responses:
        """Continue every prompt until its end token, or until R tokens; see `PlainEngine.generate`."""
        head = self._head(lm)
        depths = tuple(d for d in self._caches if d <= self._depths.get(lm, 0))
        with autocast(lm, self.dtype):
            responses, outputs = generation.generate(
                lm,
                lambda states: head.logits(states, temperature),
                prompt_ids,
                prompt_mask,
                noise,
                eos_id,
                pad_id,
                depths,
            )
        texts = _keys(responses.ids, responses.attention_mask)
        for depth, states in zip(depths, outputs, strict=True):
            kept = [row[mask] for row, mask in zip(states, responses.attention_mask, strict=True)]
            self._caches[depth].keep(texts, kept)
        return responses

    def _head(self, lm: Any) -> Head:
        if lm not in self._heads:
            self._heads[lm] = Head(lm, rounded=self.dtype == torch.bfloat16)
        return self._heads[lm]

    def _lower_layers(
        self, model: Any, ids: Tensor, attention_mask: Tensor, packed: Packed, embedding: Tensor | None
    ) -> tuple[int, Float[Tensor, "K C D"]]:
        """How many layers' outputs are cached, and the output of these layers for a batch."""
        depth = self._depths.get(model, 0)
        if not depth:
            return 0, embed(model, packed.ids, packed.position_ids, embedding)
        cache, texts = self._caches[depth], _keys(ids, attention_mask)
        for group in cache.missing(texts):
            self._compute(model, depth, cache, group, ids.device)
        return depth, packed.lay_out(cache.get(texts, ids.device))

    @torch.no_grad()
    def _compute(
        self, model: Any, depth: int, cache: ActivationCache, texts: list[bytes], device: torch.device
    ) -> None:
        """Run the frozen layers over some texts and keep their outputs."""
        rows = [torch.frombuffer(bytearray(text), dtype=torch.int32).long() for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.cat(rows)
        packed = pack(ids.to(device), mask.to(device))
        hidden = run_layers(
            model, embed(model, packed.ids, packed.position_ids), (0, depth), packed.mask, packed.position_ids
        )
        cache.add(texts, list(packed.collect(hidden).split(lengths.tolist())))


def _keys(ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> list[bytes]:
    """The name of each row in an activation cache."""
    return [key(row[mask]) for row, mask in zip(ids.cpu().numpy(), attention_mask.cpu().numpy(), strict=True)]
