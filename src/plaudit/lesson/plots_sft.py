"""Pictures of the first notebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plaudit.lesson.style import AFTER, BEFORE, MUTED, Picture, picture, style


def token_lengths(lengths: Sequence[int], longest: int) -> Picture:
    """How many tokens the texts have, and the limit over which one is left out."""
    with style():
        figure, axes = picture(height=2.3)
        axes.hist(np.array(lengths), bins=np.arange(0, max(lengths) + 2, 2), color=AFTER, alpha=0.8)
        axes.axvline(longest + 0.5, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(longest + 2, 0.85, "left out", transform=axes.get_xaxis_transform())
        axes.set_title("sentences")
        axes.set_xlabel("length (tokens, beginning and end included)")
        axes.grid(axis="x", visible=False)
    return figure


def next_tokens(expected: dict[str, tuple[Sequence[str], Sequence[float]]], text: str) -> Picture:
    """What each model expects after a text: its most likely tokens, side by side.

    Args:
        expected: a model's name, and its tokens with their probabilities.
    """
    with style():
        rows = max(len(tokens) for tokens, _ in expected.values())
        figure, panels = picture(1, len(expected), height=0.9 + 0.27 * rows, squeeze=False, sharex=True)
        for axes, (name, (tokens, shares)), colour in zip(
            panels[0], expected.items(), (BEFORE, AFTER)[: len(expected)], strict=True
        ):
            axes.barh(range(len(tokens)), [100 * s for s in shares], color=colour, height=0.65)
            axes.set_yticks(range(len(tokens)), tokens, fontfamily="monospace")
            axes.invert_yaxis()
            axes.set_title(name)
            axes.set_xlabel("probability (%)")
            axes.grid(axis="y", visible=False)
        figure.suptitle(f"after “{text}”", fontsize=10.5)
    return figure
