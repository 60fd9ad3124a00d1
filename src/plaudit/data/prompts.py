"""Prompts: the first words of texts, for a model to continue."""

from __future__ import annotations

from plaudit import rng
from plaudit.data.splits import Part
from plaudit.data.text import content_hash


def cut_prompts(part: Part, low: int, high: int, seed: int) -> list[str]:
    """Distinct prompts from `part`, independent of the order of its records.

    A demonstration with a prompt gives that prompt. Without one it gives the first `low` to `high` words of its text;
    the length is random, and at least one word is left. A text of at most `low` words gives no prompt.
    """
    prompts = []
    for d in sorted(part.demonstrations, key=lambda d: content_hash(d.prompt or d.response)):
        if d.prompt:
            prompts.append(d.prompt)
            continue
        words = d.response.split()
        longest = min(high, len(words) - 1)
        if longest >= low:
            draw = rng.generator(seed, "prompts", 0, content_hash(d.response))
            prompts.append(" ".join(words[: draw.integers(low, longest + 1)]))
    return list(dict.fromkeys(prompts))


def held_out_prompts(part: Part, low: int, high: int, seed: int, seen: list[str]) -> list[str]:
    """Prompts from the evaluation part, without those in `seen`: short ones such as "the film is" also occur there."""
    hashes = {content_hash(prompt) for prompt in seen}
    return [prompt for prompt in cut_prompts(part, low, high, seed) if content_hash(prompt) not in hashes]
