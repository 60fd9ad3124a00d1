"""The prompts that a policy is trained on: which there are, which fit into the window, and whose turn it is."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from plaudit import rng
from plaudit.data.prompts import WORDS, cut_prompts, held_out_prompts
from plaudit.data.splits import Part, check_left_out, many_left_out
from plaudit.errors import DataError, ModelError
from plaudit.models.chat import without_refused
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Text
from plaudit.training.run import Run

SKIPPED = "prompts whose text has other tokens"


def training_prompts(run: Run, tokenizer: Tokenizer, seed: int | None = None) -> tuple[list[Text], dict[str, int]]:
    """The prompts to train on, as the settings cut them, and how many were skipped, by reason.

    `seed` decides how long they are; the run's own by default.
    """
    config, skipped = run.config, dict[str, int]()
    rule = (config.prompt_min, config.prompt_max, config.seed if seed is None else seed)
    return cut_prompts(_prompts_part(run), *rule, **_how(run, tokenizer, skipped)), skipped


def _prompts_part(run: Run) -> Part:
    """The part for prompts, with the prompts of the training part, from which SFT learns nothing."""
    own, train = run.data.prompts, run.data.train
    return replace(own, to_answer=(*train.to_answer, *own.to_answer)) if train.to_answer else own


def evaluation_prompts(run: Run, tokenizer: Tokenizer, seeds: Iterable[int] = ()) -> list[Text]:
    """The held-out prompts, which are no prompts to train on; nor those of a run with one of the other `seeds`."""
    config = run.config
    seen = [prompt for seed in {config.seed, *seeds} for prompt in training_prompts(run, tokenizer, seed)[0]]
    rule = (config.prompt_min, config.prompt_max, config.seed)
    return held_out_prompts(run.data.evaluation, *rule, seen, **_how(run, tokenizer, {}))


def _how(run: Run, tokenizer: Tokenizer, skipped: dict[str, int]) -> dict[str, Any]:
    """The other arguments of `cut_prompts`; prompts that cannot be cut are counted in `skipped`."""

    def beginning(ids: list[int]) -> str:
        text = tokenizer.beginning(ids)
        if not text:
            skipped[SKIPPED] = skipped.get(SKIPPED, 0) + 1
        return text

    unit = WORDS if run.config.prompt_unit == "words" else (tokenizer.pieces, beginning)
    return {"from_words": run.config.prompt_from_words, "unit": unit}


def tokenised_prompts(run: Run, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of every prompt to train on; see `counted_prompts`."""
    return counted_prompts(run, tokenizer)[0]


def counted_prompts(run: Run, tokenizer: Tokenizer) -> tuple[list[list[int]], dict[str, int]]:
    """The token ids of every prompt to train on, and how many were skipped, by reason.

    Raises:
        DataError: there is none, or the chat template refuses half of them.
    """
    config = run.config
    texts, skipped = training_prompts(run, tokenizer)
    if skipped and not texts:
        raise DataError("the first tokens of no text are the tokens of a prompt; use prompt_unit = words")
    if not texts:
        shortest = f"of {config.prompt_from_words} words or more " if config.prompt_from_words else ""
        remedy = "lower prompt_min or prompt_from_words" if shortest else "lower prompt_min"
        raise DataError(
            f"no text {shortest}is long enough for a prompt of {config.prompt_min} {config.prompt_unit}; {remedy}"
        )
    prompts, refused = without_refused(texts, tokenizer.prompt)
    check_left_out("prompts", len(texts), refused, "use a model with another chat template")
    return prompts, skipped | refused


def prompts_to_answer(
    run: Run, tokenizer: Tokenizer, max_new_tokens: int, limit: int
) -> tuple[list[list[int]], dict[str, int]]:
    """The token ids of the prompts that leave room for a response in a window of `limit`, and how many are left out.

    Raises:
        DataError, ModelError: as `counted_prompts` and `rows_that_fit`.
    """
    prompts, skipped = counted_prompts(run, tokenizer)
    rows, _ = rows_that_fit(prompts, max_new_tokens, limit, "prompts")
    return [prompts[i] for i in rows], {"too long": len(prompts) - len(rows)} | skipped


def warn_of_skipped(run: Run, skipped: dict[str, int]) -> str:
    """A line if as many prompts are skipped as records may be lost without one; otherwise ""."""
    part = _prompts_part(run)
    total = len(part.demonstrations) + len(part.to_answer)
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return f"{reasons}, of {total} texts; they are skipped" if many_left_out(total, skipped) else ""


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
