"""Figures of notebook 1."""

from collections.abc import Mapping, Sequence

import numpy as np

from plaudit.lesson.style import AFTER, BEFORE, MUTED, NotebookFigure, new_figure


def token_lengths(lengths: Sequence[int], max_tokens: int) -> NotebookFigure:
    """Histogram of the texts' lengths in tokens, with the limit above which a text is skipped."""
    with new_figure(height=2.3) as (figure, axes):
        axes.hist(np.array(lengths), bins=np.arange(0, max(lengths) + 2, 2), color=AFTER, alpha=0.8)
        axes.axvline(max_tokens + 0.5, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(max_tokens + 2, 0.85, "skipped", transform=axes.get_xaxis_transform())
        axes.set(title="number of sentences", xlabel="length (tokens, bos and eos included)")
        axes.grid(axis="x", visible=False)
    return figure


def next_tokens(predictions: Mapping[str, tuple[Sequence[str], Sequence[float]]], text: str) -> NotebookFigure:
    """The most likely next tokens after `text` and their probabilities, one panel for each model."""
    rows = max(len(tokens) for tokens, _ in predictions.values())
    with new_figure(1, len(predictions), height=0.9 + 0.27 * rows, squeeze=False, sharex=True) as (figure, panels):
        models = zip(panels[0], predictions.items(), (BEFORE, AFTER), strict=False)
        for axes, (name, (tokens, shares)), colour in models:
            axes.barh(range(len(tokens)), [100 * share for share in shares], color=colour, height=0.65)
            axes.set_yticks(range(len(tokens)), tokens, fontfamily="monospace")
            axes.invert_yaxis()
            axes.set(title=name, xlabel="probability (%)")
            axes.grid(axis="y", visible=False)
        figure.suptitle(f"next token after “{text}”", fontsize=10.5)
    return figure
