"""What flows through training: frozen dataclasses of tensors.

B batch, P prompt length, R response length, T = P + R. Prompts are padded on the left and responses on the right, so
every response starts at the same column. A mask is named for what True means. Masks come from lengths, never from
comparing ids with a padding id.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Sequences:
    """Token sequences to learn from."""

    ids: Int[Tensor, "B T"]  # padded on the right
    attention_mask: Bool[Tensor, "B T"]  # True for tokens, False for padding
    loss_mask: Bool[Tensor, "B T"]  # True for the tokens to learn: the response, its end token included


@dataclass(frozen=True)
class JudgedBatch:
    """Texts that people judged: K = 1 with a label, K = 2 compared, or up to K from the best to the worst."""

    ids: Int[Tensor, "B K T"]  # padded on the right
    attention_mask: Bool[Tensor, "B K T"]  # True for tokens; nowhere True where a row has fewer than K texts
    weight: Float[Tensor, "B"]  # of one text its label; of two the share of people who prefer the first; otherwise 1
    margin: Float[Tensor, "B"]  # by how much the score of the preferred one of two should be higher

    @property
    def present(self) -> Bool[Tensor, "B K"]:
        """True where there is a text."""
        return self.attention_mask.any(2)


@dataclass(frozen=True)
class PairBatch:
    """Pairs of responses, each to one prompt, of which people or a reward prefer one."""

    ids: Int[Tensor, "B 2 T"]
    attention_mask: Bool[Tensor, "B 2 T"]  # True for tokens, False for padding
    loss_mask: Bool[Tensor, "B 2 T"]  # True for the tokens of the response
    reference: Float[Tensor, "B 2"]  # log-probability of each response under the reference, in nats
    weight: Float[Tensor, "B"]  # share of people who prefer the first


@dataclass(frozen=True)
class MarkedBatch:
    """Responses, each with a mark, and the KL from the reference that they are compared with."""

    sequences: Sequences
    reference: Float[Tensor, "B"]  # log-probability of each response under the reference, in nats
    mark: Float[Tensor, "B"]  # share of people who call it good
    kl: Float[Tensor, "B"]  # the same number in each row, in nats


@dataclass(frozen=True)
class Responses:
    """Prompts and the responses that a model sampled."""

    ids: Int[Tensor, "B T"]  # prompt padded on the left, response padded on the right
    attention_mask: Bool[Tensor, "B T"]  # True for prompt and response tokens
    response_mask: Bool[Tensor, "B R"]  # True for response tokens, the end token included
    ended: Bool[Tensor, "B"]  # True where the response has its end token, False where the length limit cut it off

    @property
    def response_ids(self) -> Int[Tensor, "B R"]:
        """The response columns of ids."""
        return self.ids[:, -self.response_mask.shape[1] :]

    @property
    def prompt_mask(self) -> Bool[Tensor, "B P"]:
        """The prompt columns of the attention mask."""
        return self.attention_mask[:, : -self.response_mask.shape[1]]

    def tokens(self) -> list[list[int]]:
        """The token ids of each response, without padding."""
        return _unpadded(self.response_ids, self.response_mask)

    def prompts(self) -> list[list[int]]:
        """The token ids of each prompt, without padding."""
        return _unpadded(self.ids[:, : self.prompt_mask.shape[1]], self.prompt_mask)


@dataclass(frozen=True)
class Rollout:
    """Responses with what policy, reference and reward say about them before an update.

    The (B, R) tensors are in nats, and zero outside the response.
    """

    responses: Responses
    logprobs: Float[Tensor, "B R"]  # of the response tokens under the policy that sampled them
    ref_logprobs: Float[Tensor, "B R"]  # under the reference
    kl: Float[Tensor, "B R"]  # KL of policy from reference at each state, summed over the vocabulary
    entropy: Float[Tensor, "B R"]  # of the policy's next-token distribution
    penalised_kl: Float[Tensor, "B R"]  # the estimate of KL whose multiple is subtracted from the reward: k1 by default
    raw_scores: Float[Tensor, "B"]  # what the reward gives each whole response
    scores: Float[Tensor, "B"]  # as training uses them: normalised, with the penalty for a missing end token


def cut(responses: Responses, limits: Int[Tensor, "B"], pad_id: int) -> Responses:
    """The first `limits` tokens of each response; one that loses a token has not ended."""
    mask = responses.response_mask
    kept = mask & (torch.arange(mask.shape[1], device=mask.device) < limits[:, None])
    kept = kept[:, : int(kept.sum(1).max())]
    width = responses.prompt_mask.shape[1]
    return Responses(
        ids=torch.cat(
            [responses.ids[:, :width], responses.response_ids[:, : kept.shape[1]].masked_fill(~kept, pad_id)], dim=1
        ),
        attention_mask=torch.cat([responses.prompt_mask, kept], dim=1),
        response_mask=kept,
        ended=responses.ended & (kept.sum(1) == mask.sum(1)),
    )


def _unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The ids of each row where the mask is True."""
    return [row.tolist() for row in ids[mask].cpu().split(mask.sum(1).tolist())]


def join_rollouts(parts: Sequence[Rollout], pad_id: int) -> Rollout:
    """The rows of several rollouts as one."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Rollout)}
    responses = join_responses(columns.pop("responses"), pad_id)
    width = responses.response_mask.shape[1]
    padded = {name: [_widen(x, width) if x.ndim == 2 else x for x in column] for name, column in columns.items()}
    return Rollout(responses, **{name: torch.cat(column) for name, column in padded.items()})


def join_responses(parts: Sequence[Responses], pad_id: int) -> Responses:
    """The rows of several batches of responses as one."""
    prompt, width = (max(getattr(p, name).shape[1] for p in parts) for name in ("prompt_mask", "response_mask"))

    def joined(prompts: list[Tensor], responses: list[Tensor], value: int) -> Tensor:
        left = [functional.pad(x, (prompt - x.shape[1], 0), value=value) for x in prompts]
        right = [_widen(x, width, value) for x in responses]
        return torch.cat([torch.cat(left), torch.cat(right)], dim=1)

    masks = [part.response_mask for part in parts]
    return Responses(
        ids=joined([p.ids[:, : p.prompt_mask.shape[1]] for p in parts], [p.response_ids for p in parts], pad_id),
        attention_mask=joined([part.prompt_mask for part in parts], masks, 0),
        response_mask=torch.cat([_widen(mask, width) for mask in masks]),
        ended=torch.cat([part.ended for part in parts]),
    )


def _widen(rows: Tensor, width: int, value: int = 0) -> Tensor:
    """(B, R) as (B, width), padded on the right."""
    return functional.pad(rows, (0, width - rows.shape[1]), value=value)


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
