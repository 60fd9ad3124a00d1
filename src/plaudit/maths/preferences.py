"""Statistics of a reward model, or of a rule, on held-out preferences: accuracy, calibration error, margins."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest, spearmanr

from plaudit.maths.intervals import wilson

_Z = 1.96  # standard deviations on either side of a 95% interval
_SMALLEST_GAIN = 0.02  # over chance, for which an estimate of the judgements that are missing makes sense


def pairs_of_texts(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) the places of both texts of every pair, among all texts of judgements of these sizes; (P,) the judgement.

    The first text of a pair is the one that its judgement names first.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    pairs = [start + np.stack(np.triu_indices(n, 1), 1) for start, n in zip(starts, sizes, strict=True)]
    return np.concatenate(pairs), np.repeat(np.arange(len(sizes)), [len(p) for p in pairs])


def differences(values: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What values (M,) of all texts say about the pairs of texts in judgements of these sizes.

    Returns:
        (P,) the first value minus the second of every pair, or where all sizes are 1 the values themselves; (P,) the
        judgement to which each belongs.
    """
    if max(sizes) == 1:
        return values, np.arange(len(values))
    pairs, judgement = pairs_of_texts(sizes)
    return values[pairs[:, 0]] - values[pairs[:, 1]], judgement


def rightness(logits: np.ndarray, labels: np.ndarray, judgement: np.ndarray) -> np.ndarray:
    """(M,) of each judgement that is not a tie, the share of its pairs (P,) whose side the logits (P,) predict.

    A logit of zero is half right. See `preference_statistics` for the arguments.
    """
    clear = labels != 0.5
    right = np.where(logits == 0, 0.5, (logits > 0) == (labels > 0.5))[clear]
    total, count = (np.bincount(judgement[clear], weights=w) for w in (right, None))
    return total[count > 0] / count[count > 0]


def too_few(right: np.ndarray, trained: int) -> str:
    """A line if the held-out judgements cannot tell the model from chance, and how many would; otherwise "".

    Args:
        right: (N,) 1 where the model agrees with a held-out judgement, 0 where not, 1/2 for a tie.
        trained: judgements that the model learned from.
    """
    share = float(right.mean())
    if wilson(round(right.sum()), len(right))[0] > 0.5:
        return ""
    beyond = share - 0.5
    line = f"right about {right.sum():g} of {len(right)} held-out judgements, which may be chance"
    if beyond < _SMALLEST_GAIN:
        return f"{line}: too few judgements to say more; compare at least {4 * (trained + len(right))} in all"
    needed = np.ceil(_Z**2 * share * (1 - share) / beyond**2) + 1
    more = max(1, round((needed / len(right) - 1) * (trained + len(right))))
    return f"{line}: if it stays at {share:.0%}, about {more} more judgements would show that it is better"


def exceeds(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether `one` (M,) is right more often than `other` (M,) on the same judgements, beyond noise.

    The sign test of the judgements on which they differ, one-sided at 2.5%.
    """
    more, fewer = int((one > other).sum()), int((one < other).sum())
    return more > fewer and bool(binomtest(more, more + fewer, alternative="greater").pvalue < 0.025)


def preference_statistics(
    logits: np.ndarray, labels: np.ndarray, lengths: np.ndarray, pairs: bool, judgement: np.ndarray | None = None
) -> dict[str, Any]:
    """How well the logits of a reward model predict held-out labels or comparisons.

    Args:
        logits: (N,) log odds that a text is positive, or that the first of two texts is preferred.
        labels: (N,) the share of people who agree, in [0, 1]. Ties (1/2) count for calibration only.
        lengths: (N,) tokens of the text, or tokens of the first text minus tokens of the second.
        pairs: whether these are comparisons. The order of the two texts means nothing, so calibration counts each
            comparison from both sides; otherwise data that always lists the preferred text first would look perfect.
        judgement: (N,) the ranking to which each pair belongs. By default each is a judgement of its own.

    Returns:
        held_out, the number of judgements without a tie. If there is at least one: accuracy, the mean over judgements,
        and accuracy_ci95 (Wilson; too wide for rankings, whose pairs are not independent); accuracy_by_margin, for the
        quarters of |logit|; ece, the expected calibration error over ten bins of probability of equal width, and
        `calibration`, these bins; length_correlation, the Pearson correlation of logit and length. If people disagree,
        or labels are graded: mean_absolute_error, of the probability from the label, and spearman, their rank
        correlation.
    """
    clear = labels != 0.5
    if not clear.any():
        return {"held_out": 0}
    right = rightness(logits, labels, np.arange(len(logits)) if judgement is None else judgement)
    of_pairs = rightness(logits, labels, np.arange(len(logits)))
    both_sides = (np.r_[logits, -logits], np.r_[labels, 1 - labels])
    sides = both_sides if pairs else (logits, labels)
    calibration, ece = _calibration(*sides)
    varied = lengths.std() > 0 and logits.std() > 0
    graded = not np.isin(labels, (0, 0.5, 1) if pairs else (0, 1)).all()
    return {
        "held_out": len(right),
        "accuracy": float(right.mean()),
        "accuracy_ci95": wilson(round(right.sum()), len(right)),
        "accuracy_by_margin": _accuracy_by_margin(np.abs(logits[clear]), of_pairs),
        "ece": ece,
        "calibration": calibration,
        "length_correlation": float(np.corrcoef(logits, lengths)[0, 1]) if varied else 0.0,
    } | (_of_graded(*sides) if graded else {})


def _of_graded(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How near the probabilities are to graded labels, and whether they rank texts as the labels do."""
    varied = logits.std() > 0 and labels.std() > 0
    return {
        "mean_absolute_error": float(np.abs(expit(logits.astype(np.float64)) - labels).mean()),
        "spearman": float(spearmanr(logits, labels).statistic) if varied else 0.0,
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
