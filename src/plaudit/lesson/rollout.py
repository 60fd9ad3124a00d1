"""One response of a rollout, looked at token by token."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from plaudit.batches import Experience
from plaudit.lesson.tables import Column, Html, running_text, table
from plaudit.models.tokenizer import Tokenizer


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Every token as a string that people can see: a space is written as a dot in the middle of the line."""
    return [tokenizer.hf.decode([i]).replace(" ", "·").replace("\n", "⏎") for i in ids]


def prompt_of(tokenizer: Tokenizer, experience: Experience, row: int) -> str:
    """The prompt of one row of a rollout."""
    rollout = experience.rollout
    width = rollout.ids.shape[1] - rollout.response_mask.shape[1]
    ids, mask = rollout.ids[row, :width], rollout.attention_mask[row, :width]
    return tokenizer.text(ids[mask].tolist())


def rollout_table(tokenizer: Tokenizer, experience: Experience, kl: Float[Tensor, "B R"], row: int) -> Html:
    """The response of one row: its text in the colours of its advantages, and all figures of each token below.

    Args:
        kl: the exact KL at each state, as `collect` gives it.
    """
    rollout = experience.rollout
    length = int(rollout.response_mask[row].sum())
    ids = rollout.response_ids[row, :length].tolist()
    advantages = experience.advantages[row, :length].tolist()
    sampled = rollout.logprobs - rollout.ref_logprobs
    columns = [
        _of("log p, policy", rollout.logprobs, row, length, form="{:.2f}"),
        _of("log p, reference", rollout.ref_logprobs, row, length, form="{:.2f}"),
        _of("KL, sampled", sampled, row, length, coloured=True),
        _of("KL, exact", kl, row, length, form="{:.2f}", coloured=True),
        _of("reward", experience.rewards, row, length, coloured=True),
        _of("value", rollout.values, row, length, coloured=True),
        _of("return", experience.returns, row, length, coloured=True),
        Column("advantage", advantages, coloured=True),
    ]
    shown = [tokenizer.hf.decode([i]) for i in ids]
    return running_text(shown, advantages, prompt_of(tokenizer, experience, row)) + table(
        "token", pieces(tokenizer, ids), columns
    )


def update_table(
    tokenizer: Tokenizer, experience: Experience, logprobs: Float[Tensor, "B R"], clip_range: float, row: int
) -> Html:
    """What an update did to the tokens of one response.

    Args:
        logprobs: of the same tokens under the policy after the update.
    """
    rollout = experience.rollout
    length = int(rollout.response_mask[row].sum())
    ids = rollout.response_ids[row, :length].tolist()
    ratio = (logprobs - rollout.logprobs).exp()
    columns = [
        _of("advantage", experience.advantages, row, length, coloured=True),
        _of("p before", rollout.logprobs.exp(), row, length, form="{:.3f}"),
        _of("p after", logprobs.exp(), row, length, form="{:.3f}"),
        _of("ratio", ratio, row, length, form="{:.3f}"),
        _of("ratio − 1", ratio - 1, row, length, form="{:+.3f}", coloured=True, scale=clip_range),
    ]
    return table("token", pieces(tokenizer, ids), columns)


def _of(
    name: str,
    values: Float[Tensor, "B R"],
    row: int,
    length: int,
    form: str = "{:+.2f}",
    coloured: bool = False,
    scale: float | None = None,
) -> Column:
    return Column(name, values[row, :length].tolist(), form, coloured, scale)
