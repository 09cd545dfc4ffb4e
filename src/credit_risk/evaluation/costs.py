"""What decisions cost: a false negative is a positive row that was accepted, a false positive a negative one declined.

A row is declined when its probability is at least the threshold.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from credit_risk.core.arrays import Labels, Scores


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How rows are decided, and what wrong decisions cost."""

    threshold: float
    false_negative: float
    false_positive: float


def decision_costs(labels: Labels, probabilities: Scores, rule: DecisionRule) -> dict[str, float]:
    """What decisions cost, compared with the trivial policies: the mean cost of a row.

    Returns:
        `cost` of the rule's decisions; `cost_accept_all` and `cost_decline_all` of treating all rows alike; and
        `best_cost` at `best_threshold`, the cheapest one on these very rows, known only afterwards.
    """
    best_threshold, best_cost = cheapest_threshold(labels, probabilities, rule.false_negative, rule.false_positive)
    return {
        "cost": float(mean_costs(labels, probabilities, rule.threshold, rule.false_negative, rule.false_positive)),
        "cost_accept_all": rule.false_negative * float(labels.mean()),
        "cost_decline_all": rule.false_positive * float(1 - labels.mean()),
        "best_threshold": best_threshold,
        "best_cost": best_cost,
    }


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
