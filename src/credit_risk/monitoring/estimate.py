"""Performance without outcomes, from calibrated probabilities (CBPE, confidence-based performance estimation).

A calibrated probability p says that a row is positive with probability p, so the expected confusion matrix, and every
metric made from it, follows from the probabilities alone. This holds while the probabilities stay calibrated: a change
of the inputs is seen, a change of the relation between inputs and outcome is not; only outcomes show it. Source:
NannyML's documentation, "Estimation of performance of the monitored model".
"""

from typing import Any

import numpy as np

from credit_risk.core.arrays import Scores

DRAWS = 200  # of rows and outcomes, for the intervals


def expected_auc(calibrated: Scores, positives: Scores | None = None, weights: Scores | None = None) -> float:
    """ROC AUC that calibrated probabilities imply: each row counts as p positive and 1 - p negative ones.

    Args:
        calibrated: shape (n,).
        positives: what each row counts as positive, shape (n,); by default the probability itself. With outcomes, it is
            the realised AUC.
        weights: of the rows, shape (n,).
    """
    ordered, places = np.unique(calibrated, return_inverse=True)
    share = calibrated if positives is None else positives
    weights = np.ones(len(calibrated)) if weights is None else weights
    positive = np.bincount(places, share * weights, len(ordered))
    negative = np.bincount(places, (1 - share) * weights, len(ordered))
    below = np.cumsum(negative) - negative / 2  # ties count half
    total = positive.sum() * negative.sum()
    return float(positive @ below / total) if total else float("nan")


def estimate(
    calibrated: Scores, declined: Any, costs: tuple[float, float], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Estimated `roc_auc`, `positive_rate` and `cost` of a row, each with the ends of its 95 % interval.

    The interval covers what the realised figure of as many rows would be: rows and outcomes are drawn at random.

    Args:
        calibrated: probabilities, shape (n,).
        declined: whether each row was declined, shape (n,).
        costs: of a false negative and of a false positive.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    rows = len(calibrated)

    def figures(positives: Scores, weights: Scores) -> tuple[float, float, float]:
        cost = np.where(declined, costs[1] * (1 - positives), costs[0] * positives)
        return (
            expected_auc(calibrated, positives, weights),
            float(positives @ weights / rows),
            float(cost @ weights / rows),
        )

    expected = figures(calibrated, np.ones(rows))
    drawn = np.array(
        [
            figures(
                (rng.random(rows) < calibrated).astype(np.float64),
                np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64),
            )
            for _ in range(DRAWS)
        ]
    )
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return {
        name: (expected[index], float(low[index]), float(high[index]))
        for index, name in enumerate(("roc_auc", "positive_rate", "cost"))
    }
