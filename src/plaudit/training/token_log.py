"""What the live page shows token by token: a few responses of an iteration, with the figures that PPO learns from."""

from __future__ import annotations

from typing import Any

from plaudit.batches import Rollout
from plaudit.maths.advantages import token_rewards
from plaudit.models.tokenizer import Tokenizer

RESPONSES, LONGEST = 8, 256  # responses of an iteration, and tokens of a response, that are logged
_DIGITS = 5


def token_columns(tokenizer: Tokenizer, batch: Any, rollout: Rollout, kl_coef: float) -> dict[str, list[Any]]:
    """Columns of `MetricsLog.log_tokens` for the first responses of a rollout.

    Args:
        batch: what an algorithm made of the rollout: with `advantages`, (B, R) or (B,), and perhaps `values` (B, R).
    """
    responses, mask = rollout.responses, rollout.responses.response_mask
    ids = [tokens[:LONGEST] for tokens in responses.tokens()[:RESPONSES]]
    figures = {
        "logprobs": rollout.logprobs,
        "ref_logprobs": rollout.ref_logprobs,
        "rewards": token_rewards(rollout.scores, rollout.penalised_kl, mask, kl_coef),
        "advantages": batch.advantages if batch.advantages.dim() == 2 else batch.advantages[:, None].expand(mask.shape),
    }
    if (values := getattr(batch, "values", None)) is not None:
        figures["values"] = values
    columns: dict[str, list[Any]] = {
        "row": list(range(len(ids))),
        "prompt": [tokenizer.text(prompt) for prompt in responses.prompts()[:RESPONSES]],
        "score": _rounded(rollout.scores[:RESPONSES].tolist()),
        "tokens": [[tokenizer.text([token]) for token in tokens] for tokens in ids],
        "ids": ids,
    }
    for name, values in figures.items():
        rows = values[: len(ids)].tolist()
        columns[name] = [_rounded(row[: len(tokens)]) for row, tokens in zip(rows, ids, strict=True)]
    return columns


def _rounded(values: list[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]
