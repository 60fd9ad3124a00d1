"""Statistics of a reward model on held-out preferences: accuracy, expected calibration error, margins."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% confidence interval of a proportion, from `successes` in `n` trials. Source: Wilson 1927."""
    ends = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(ends.low), float(ends.high)


def preference_statistics(logits: np.ndarray, labels: np.ndarray, lengths: np.ndarray, pairs: bool) -> dict[str, Any]:
    """How well the logits of a reward model predict held-out labels or comparisons.

    Args:
        logits: (N,) log odds that a text is positive, or that the first of two texts is preferred.
        labels: (N,) the share of people who agree, in [0, 1]. Ties (1/2) count for calibration only.
        lengths: (N,) tokens of the text, or tokens of the first text minus tokens of the second.
        pairs: whether these are comparisons. The order of the two texts means nothing, so calibration counts each
            comparison from both sides; otherwise data that always lists the preferred text first would look perfect.

    Returns:
        held_out, the number of examples without a tie. If there is at least one: accuracy and accuracy_ci95 (Wilson);
        accuracy_by_margin, for the quarters of |logit|; ece, the expected calibration error over ten bins of
        probability of equal width, and `calibration`, these bins; length_correlation, the Pearson correlation of
        logit and length.
    """
    clear = labels != 0.5
    if not clear.any():
        return {"held_out": 0}
    right = ((logits > 0) == (labels > 0.5))[clear]
    both_sides = (np.r_[logits, -logits], np.r_[labels, 1 - labels])
    calibration, ece = _calibration(*both_sides if pairs else (logits, labels))
    varied = lengths.std() > 0 and logits.std() > 0
    return {
        "held_out": len(right),
        "accuracy": float(right.mean()),
        "accuracy_ci95": wilson(int(right.sum()), len(right)),
        "accuracy_by_margin": _accuracy_by_margin(np.abs(logits[clear]), right),
        "ece": ece,
        "calibration": calibration,
        "length_correlation": float(np.corrcoef(logits, lengths)[0, 1]) if varied else 0.0,
    }


def _calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[list[dict[str, Any]], float]:
    """Bins of predicted probability, and the expected calibration error over them."""
    # Not sklearn.calibration.calibration_curve: it gives no counts, and refuses labels between 0 and 1.
    probability = expit(logits.astype(np.float64))
    bins = np.minimum((probability * 10).astype(int), 9)
    count, predicted, positive = (np.bincount(bins, weights=w, minlength=10) for w in (None, probability, labels))
    curve = [
        {"confidence": float(predicted[b] / n), "positive": float(positive[b] / n), "count": int(n)}
        for b, n in enumerate(count)
        if n
    ]
    return curve, float(np.abs(predicted - positive).sum() / len(logits))


def _accuracy_by_margin(margin: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy in each quarter of the margins (N,)."""
    edges = np.quantile(margin, [0, 0.25, 0.5, 0.75, 1])
    quarter = np.clip(np.searchsorted(edges, margin, side="right") - 1, 0, 3)
    return [
        {
            "margin": edges[q : q + 2].tolist(),
            "accuracy": float(right[quarter == q].mean()),
            "count": int((quarter == q).sum()),
        }
        for q in range(4)
        if (quarter == q).any()
    ]
