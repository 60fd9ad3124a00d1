"""The prompts that a policy is trained on: which there are, which fit into the window, and whose turn it is."""

from typing import Any

from plaudit import rng
from plaudit.data.prompts import cut_prompts
from plaudit.data.splits import check_left_out
from plaudit.errors import DataError, ModelError
from plaudit.models.tokenizer import Tokenizer
from plaudit.training.run import Run


def tokenised_prompts(run: Run, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of every prompt to train on."""
    config = run.config
    texts = cut_prompts(run.data.prompts, config.prompt_min, config.prompt_max, config.seed)
    if not texts:
        raise DataError(f"no text is long enough for a prompt of {config.prompt_min} words; lower prompt_min")
    return [tokenizer.prompt(text) for text in texts]


def prompts_of(iteration: int, prompts: list[Any], batch_size: int, seed: int) -> list[Any]:
    """The prompts of an iteration: pass after pass over all of them, each pass in its own order."""
    n, places = len(prompts), range(iteration * batch_size, (iteration + 1) * batch_size)
    orders = {epoch: rng.permutation(n, seed, "ppo prompts", epoch) for epoch in {p // n for p in places}}
    return [prompts[orders[p // n][p % n]] for p in places]


def rows_that_fit(prompts: list[list[int]], max_new_tokens: int, limit: int, part: str) -> tuple[list[int], str]:
    """Which prompts leave room for a whole response in a window of `limit` tokens, and a line if many do not.

    Args:
        part: of the data, for messages.

    Raises:
        ModelError: none does.
        DataError: half of them, or more, do not.
    """
    rows = [i for i, prompt in enumerate(prompts) if len(prompt) + max_new_tokens <= limit]
    if not rows:
        check_window([min(prompts, key=len, default=[])], max_new_tokens, limit)
    too_long = {f"prompts too long for a window of {limit} tokens": len(prompts) - len(rows)}
    return rows, check_left_out(part, len(prompts), too_long, "shorten the prompts or lower max_new_tokens")


def check_window(prompts: list[list[int]], max_new_tokens: int, limit: int) -> None:
    """Refuse prompts that leave no room in the model's window for a whole response, with a ModelError."""
    longest = max(map(len, prompts), default=0)
    if longest + max_new_tokens > limit:
        raise ModelError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} do not fit into the model's window of "
            f"{limit} tokens; shorten the prompts or lower max_new_tokens"
        )
