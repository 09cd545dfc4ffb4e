"""What decisions cost: a false negative is a positive row that was accepted, a false positive a negative one declined.

A row is declined when its probability is at least the threshold.
"""

import numpy as np
import numpy.typing as npt

from credit_risk.core.arrays import Labels, Scores


def mean_costs(
    labels: Labels,
    probabilities: Scores,
    thresholds: npt.ArrayLike,
    false_negative: float,
    false_positive: float,
) -> Scores:
    """Mean cost of a row at each threshold, in the shape of `thresholds`.

    A threshold of 0 declines all rows, one above 1 accepts all.
    """
    positives, negatives = np.sort(probabilities[labels == 1]), np.sort(probabilities[labels == 0])
    accepted_positives = np.searchsorted(positives, thresholds)
    declined_negatives = len(negatives) - np.searchsorted(negatives, thresholds)
    costs: Scores = (false_negative * accepted_positives + false_positive * declined_negatives) / len(labels)
    return costs


def cheapest_threshold(
    labels: Labels, probabilities: Scores, false_negative: float, false_positive: float
) -> tuple[float, float]:
    """The threshold with the lowest mean cost of a row, and that cost.

    Candidates lie half-way between neighbouring probabilities, so that rounding a probability does not change its
    decision. For calibrated probabilities the result is near false_positive / (false_positive + false_negative).
    Source: Elkan (2001), "The foundations of cost-sensitive learning".
    """
    distinct = np.unique(probabilities)
    candidates = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2, [1.0]])
    costs = mean_costs(labels, probabilities, candidates, false_negative, false_positive)
    best = int(np.argmin(costs))
    return float(candidates[best]), float(costs[best])
