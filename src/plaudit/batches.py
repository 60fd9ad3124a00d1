"""What flows through training: frozen groups of tensors.

B batch, P prompt length, R response length, T = P + R. Prompts are padded on the left and responses on the
right, so every response starts at the same column. A mask is named for what True means, and comes from
lengths, never from comparing ids with a padding id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

T_ = TypeVar("T_")


@dataclass(frozen=True)
class Below:
    """What the lowest `depth` blocks of a model leave of a batch. They do not learn, so it stays true.

    Attributes:
        states: (B, T, D), zero at padding; D is 0 where depth is.
        depth: blocks that have been run; 0: none, and a model begins at the token ids.
    """

    states: Float[Tensor, "B T D"]
    depth: int

    @staticmethod
    def nothing(ids: Int[Tensor, "B T"]) -> "Below":
        """No block has been run on the batch."""
        return Below(torch.zeros(*ids.shape, 0, device=ids.device), 0)

    def to(self, device: torch.device) -> "Below":
        """The same on `device`."""
        return Below(self.states.to(device), self.depth)


@dataclass(frozen=True)
class Sequences:
    """Token sequences to learn from.

    Attributes:
        ids: (B, T) token ids, padded on the right.
        attention_mask: (B, T) True for tokens, False for padding.
        loss_mask: (B, T) True for the tokens to learn: the response, its end token included.
        below: what the frozen blocks left of them.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]
    below: Below

    def to(self, device: torch.device) -> "Sequences":
        """The same on `device`."""
        return Sequences(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class PreferenceBatch:
    """Pairs of responses to the same prompts.

    Attributes:
        chosen, rejected: the two sequences of each pair.
        weight: (B,) share of people who preferred `chosen`: 1 clear, 1/2 a tie.
    """

    chosen: Sequences
    rejected: Sequences
    weight: Float[Tensor, "B"]

    def to(self, device: torch.device) -> "PreferenceBatch":
        """The same on `device`."""
        return PreferenceBatch(self.chosen.to(device), self.rejected.to(device), self.weight.to(device))


@dataclass(frozen=True)
class Responses:
    """Prompts and what a model answered.

    Attributes:
        ids: (B, T) prompt padded on the left, response padded on the right.
        attention_mask: (B, T) True for prompt and response tokens.
        response_mask: (B, R) True for response tokens, the end token included.
        ended: (B,) True where the response ends with the end token, False where the cap cut it off.
        below: what the policy's frozen blocks left of them.
        shared: what those of these blocks left that are the reward model's, too.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B R"]
    ended: Bool[Tensor, "B"]
    below: Below
    shared: Below

    @property
    def response_ids(self) -> Int[Tensor, "B R"]:
        """(B, R) the response columns of ids."""
        return self.ids[:, -self.response_mask.shape[1] :]


@dataclass(frozen=True)
class Rollout:
    """Responses with all that is known of them before learning.

    Attributes:
        ids, attention_mask, response_mask: as in Responses.
        logprobs: (B, R) of the response tokens under the policy that sampled them, nats.
        ref_logprobs: (B, R) under the reference, nats.
        values: (B, R) the value head's guess before each response token.
        scores: (B,) what the whole response is worth, normalised.
        below: what the policy's frozen blocks left of prompt and response.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B R"]
    logprobs: Float[Tensor, "B R"]
    ref_logprobs: Float[Tensor, "B R"]
    values: Float[Tensor, "B R"]
    scores: Float[Tensor, "B"]
    below: Below

    @property
    def response_ids(self) -> Int[Tensor, "B R"]:
        """(B, R) the response columns of ids."""
        return self.ids[:, -self.response_mask.shape[1] :]


@dataclass(frozen=True)
class Experience:
    """A rollout with its per-token rewards and what follows from them.

    Attributes:
        rewards: (B, R) KL penalty and score, raw.
        advantages: (B, R) whitened over the response tokens of the whole rollout.
        returns: (B, R) targets of the value head, from raw advantages.
    """

    rollout: Rollout
    rewards: Float[Tensor, "B R"]
    advantages: Float[Tensor, "B R"]
    returns: Float[Tensor, "B R"]

    def minibatches(self, order: np.ndarray, size: int) -> Iterator["Experience"]:
        """Parts of at most `size` rows in the given order; the last may be smaller, and none is left out."""
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size]).to(self.rewards.device)
            yield _trimmed(select_rows(self, rows))


def _trimmed(part: Experience) -> Experience:
    """The same without the columns that are padding in every row: they cost arithmetic and mean nothing."""
    rollout = part.rollout
    cut = rollout.response_mask.shape[1] - int(rollout.response_mask.sum(1).max())
    first, end = int(rollout.attention_mask.any(0).int().argmax()), -cut or None
    texts = {name: getattr(rollout, name)[:, first:end] for name in ("ids", "attention_mask")}
    known = {name: getattr(rollout, name)[:, :end] for name in ("response_mask", "logprobs", "ref_logprobs", "values")}
    trimmed = Rollout(
        **texts,
        **known,
        scores=rollout.scores,
        below=Below(rollout.below.states[:, first:end], rollout.below.depth),
    )
    return Experience(trimmed, part.rewards[:, :end], part.advantages[:, :end], part.returns[:, :end])


def select_rows(batch: T_, rows: Int[Tensor, "n"]) -> T_:
    """The given rows of every tensor in a (nested) batch."""
    parts = {}
    for f in fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            value = value[rows]
        elif not isinstance(value, int):
            value = select_rows(value, rows)
        parts[f.name] = value
    return type(batch)(**parts)
