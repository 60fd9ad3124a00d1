"""How good a reward model is on judgements that it has not seen: accuracy, margins, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

_BINS = 10


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share. Source: Wilson 1927."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(centre - half), float(centre + half)


def summarise(logits: np.ndarray, weights: np.ndarray, lengths: np.ndarray, pairs: bool) -> dict[str, Any]:
    """Figures of held-out judgements.

    Args:
        logits: (N,) log odds that the text is good, or that the first of two is better.
        weights: (N,) what people said, in [0, 1]; ties (1/2) count for calibration only.
        lengths: (N,) tokens, or how many more the first of two has, to see whether the score goes with length.
        pairs: the judgements are comparisons. Which text came first means nothing, so that each counts for
            calibration from both sides: data that always names the preferred one first would else look perfect.

    Returns:
        accuracy and accuracy_ci95 (Wilson); accuracy_by_margin, in quarters of |logit|; ece, the expected
        calibration error over ten equal bins of probability, and the bins; length_correlation (Pearson).
    """
    clear = weights != 0.5
    if not clear.any():
        return {"held_out": 0}
    correlation = float(np.corrcoef(logits, lengths)[0, 1]) if lengths.std() > 0 and logits.std() > 0 else 0.0
    judged, said = (np.r_[logits, -logits], np.r_[weights, 1 - weights]) if pairs else (logits, weights)
    probability = 1 / (1 + np.exp(-judged.astype(np.float64)))
    right = (logits > 0) == (weights > 0.5)
    margin = np.abs(logits[clear])
    edges = np.quantile(margin, [0, 0.25, 0.5, 0.75, 1])
    quarter = np.clip(np.searchsorted(edges, margin, side="right") - 1, 0, 3)
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    calibration = [
        {
            "confidence": float(probability[bins == b].mean()),
            "positive": float(said[bins == b].mean()),
            "count": int((bins == b).sum()),
        }
        for b in range(_BINS)
        if (bins == b).any()
    ]
    return {
        "held_out": int(clear.sum()),
        "accuracy": float(right[clear].mean()),
        "accuracy_ci95": wilson(int(right[clear].sum()), int(clear.sum())),
        "accuracy_by_margin": [
            {
                "margin": [float(edges[q]), float(edges[q + 1])],
                "accuracy": float(right[clear][quarter == q].mean()),
                "count": int((quarter == q).sum()),
            }
            for q in range(4)
            if (quarter == q).any()
        ],
        "ece": sum(b["count"] * abs(b["confidence"] - b["positive"]) for b in calibration) / len(judged),
        "calibration": calibration,
        "length_correlation": correlation,
    }
