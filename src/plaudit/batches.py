"""What flows through training: frozen dataclasses of tensors.

B batch, P prompt length, R response length, T = P + R. Prompts are padded on the left and responses on the right, so
every response starts at the same column. A mask is named for what True means. Masks come from lengths, never from
comparing ids with a padding id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Sequences:
    """Token sequences to learn from.

    Attributes:
        ids: (B, T) token ids, padded on the right.
        attention_mask: (B, T) True for tokens, False for padding.
        loss_mask: (B, T) True for the tokens to learn: the response, its end token included.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class PreferenceBatch:
    """Pairs of responses to the same prompts.

    Attributes:
        chosen, rejected: the two sequences of each pair.
        weight: (B,) share of people who preferred `chosen`: 1 for a clear choice, 1/2 for a tie.
    """

    chosen: Sequences
    rejected: Sequences
    weight: Float[Tensor, "B"]


@dataclass(frozen=True)
class LabelledBatch:
    """Texts with labels.

    Attributes:
        texts: one sequence a text.
        weight: (B,) 1 for a good text, 0 for a bad one.
    """

    texts: Sequences
    weight: Float[Tensor, "B"]


@dataclass(frozen=True)
class Responses:
    """Prompts and the responses that a model sampled.

    Attributes:
        ids: (B, T) prompt padded on the left, response padded on the right.
        attention_mask: (B, T) True for prompt and response tokens.
        response_mask: (B, R) True for response tokens, the end token included.
        ended: (B,) True where the response ends with the end token, False where the length limit cut it off.
    """

    ids: Int[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    response_mask: Bool[Tensor, "B R"]
    ended: Bool[Tensor, "B"]

    @property
    def response_ids(self) -> Int[Tensor, "B R"]:
        """(B, R) the response columns of ids."""
        return self.ids[:, -self.response_mask.shape[1] :]

    @property
    def prompt_mask(self) -> Bool[Tensor, "B P"]:
        """(B, P) the prompt columns of the attention mask."""
        return self.attention_mask[:, : -self.response_mask.shape[1]]

    def tokens(self) -> list[list[int]]:
        """The token ids of each response, without padding."""
        lengths = self.response_mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.response_ids.tolist(), lengths, strict=True)]

    def prompts(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        lengths = self.prompt_mask.sum(1).tolist()
        columns = self.prompt_mask.shape[1]
        rows = self.ids[:, :columns].tolist()
        return [row[columns - length :] for row, length in zip(rows, lengths, strict=True)]


@dataclass(frozen=True)
class Rollout:
    """Responses with what policy, reference and reward say about them before an update.

    Attributes:
        responses: what the policy sampled.
        logprobs: (B, R) of the response tokens under the policy that sampled them, nats.
        ref_logprobs: (B, R) under the reference, nats.
        kl: (B, R) KL of policy from reference at each state, summed over the vocabulary, nats.
        entropy: (B, R) of the policy's next-token distribution, nats.
        raw_scores: (B,) what the reward gives each whole response.
        scores: (B,) the same as training uses it: normalised, with the penalty for a missing end token.

    The (B, R) tensors are zero outside the response.
    """

    responses: Responses
    logprobs: Float[Tensor, "B R"]
    ref_logprobs: Float[Tensor, "B R"]
    kl: Float[Tensor, "B R"]
    entropy: Float[Tensor, "B R"]
    raw_scores: Float[Tensor, "B"]
    scores: Float[Tensor, "B"]


def select_rows(batch: Batch, rows: Int[Tensor, "n"]) -> Batch:
    """The given rows of every tensor in a batch, and in the batches that it contains."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}  # type: ignore[arg-type]
    selected = {k: v[rows] if isinstance(v, Tensor) else select_rows(v, rows) for k, v in values.items()}
    return type(batch)(**selected)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on `device`."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}  # type: ignore[arg-type]
    moved = {k: v.to(device) if isinstance(v, Tensor) else to_device(v, device) for k, v in values.items()}
    return type(batch)(**moved)


def number_of_rows(batch: object) -> int:
    """B, the number of rows of a batch."""
    first = getattr(batch, fields(batch)[0].name)  # type: ignore[arg-type]
    return len(first) if isinstance(first, Tensor) else number_of_rows(first)


def split_rows(batch: Batch, order: np.ndarray, size: int) -> Iterator[Batch]:
    """Parts of at most `size` rows in the given order. The last may be smaller; no row is left out."""
    for start in range(0, len(order), size):
        yield select_rows(batch, torch.from_numpy(order[start : start + size]))
