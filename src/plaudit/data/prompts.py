"""Prompts: the beginnings of texts, for a model to continue."""

from __future__ import annotations

from plaudit import rng
from plaudit.data.splits import Part
from plaudit.data.text import content_hash


def cut_prompts(part: Part, low: int, high: int, seed: int) -> list[str]:
    """Distinct prompts from a split, in an order that does not depend on the order of the records.

    A demonstration that has a prompt gives that prompt. A bare text gives its first `low` to `high` words, as
    many as its own hash and the seed decide, at least one word being left to continue.
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
    """Prompts from the evaluation split, without those that also came up for training ("the film is")."""
    met = {content_hash(p) for p in seen}
    return [p for p in cut_prompts(part, low, high, seed) if content_hash(p) not in met]
