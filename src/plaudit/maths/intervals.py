"""Confidence intervals of proportions, without scipy: the labelling page imports this and starts within a second."""

from __future__ import annotations

import numpy as np

Z95 = 1.959963984540054  # 97.5% quantile of the standard normal distribution


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95% confidence interval of a proportion, from `successes` in `n` trials. Source: Wilson 1927."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(
            f"{successes} successes in {n} trials: there must be a trial, and no more successes than trials"
        )
    share, spread = successes / n, Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * float(np.sqrt((share * (1 - share) + spread / 4) / n))
    # At the ends rounding would leave 1e-17 in place of the exact 0 and 1.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half
