"""Percentile bootstrap: 95 % intervals of metrics and of the difference between two models on the same rows.

A resample is an array of weights: how often each row was drawn. Rows are sorted by probability once, so that each
resample costs time linear in the rows.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from credit_risk.core.arrays import Labels, Scores
from credit_risk.evaluation.costs import DecisionRule
from credit_risk.evaluation.metrics import bin_of

Interval = tuple[float, float]
Weights = npt.NDArray[np.int64]
MIN_CLASS_ROWS = 10  # of each outcome; with fewer, the rare rows' number of draws is most of what an interval shows


def bootstrap(
    statistics: Callable[[Weights], dict[str, float]], labels: Labels, resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % percentile intervals of statistics over resamples of the rows, by name.

    Args:
        statistics: figures by name of a resample, given as weights of shape (n,).
        labels: shape (n,). Resamples in which an outcome does not occur are skipped.
        resamples: how many are drawn.
        seed: of the draws; the same seed draws the same rows for every statistic.

    Returns:
        Low and high end by name; empty when an outcome has fewer than MIN_CLASS_ROWS rows.
    """
    rows, positives = len(labels), int(labels.sum())
    if min(positives, rows - positives) < MIN_CLASS_ROWS:
        return {}
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        if 0 < weights @ labels < rows:
            figures.append(statistics(weights))
    ends = {name: np.percentile([figure[name] for figure in figures], [2.5, 97.5]) for name in figures[0]}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def metric_intervals(  # noqa: PLR0913, PLR0917 (of three kinds: rows, decisions, resampling)
    labels: Labels, probabilities: Scores, rule: DecisionRule, bins: int, resamples: int, seed: int
) -> dict[str, Interval]:
    """Intervals of all metrics of `metrics.measure` and of the costs of `costs.decision_costs`, by name.

    The best threshold and its cost have none: they are chosen on the rows themselves. Empty for too few rows.
    """
    ranked = Ranked(labels, probabilities)
    gap, bin_index = labels - probabilities, bin_of(probabilities, bins)
    squared, wrong = gap**2, (probabilities >= rule.threshold) != (labels == 1)
    losses = -np.log(np.clip(np.where(labels == 1, probabilities, 1 - probabilities), np.finfo(np.float64).eps, 1))
    costs = wrong * np.where(labels == 1, rule.false_negative, rule.false_positive)
    by_row = np.column_stack([labels, squared, losses, wrong, costs]).astype(np.float64)

    def statistics(weights: Weights) -> dict[str, float]:
        positives, negatives = ranked.shares_below(weights)
        rate, brier, log_loss, wrong_share, cost = (weights.astype(np.float64) @ by_row / len(labels)).tolist()
        auc = float(np.trapezoid(negatives, positives))
        return {
            "positive_rate": rate,
            "roc_auc": auc,
            "gini": 2 * auc - 1,
            "pr_auc": average_precision(positives, negatives, rate),
            "ks": float(np.max(negatives - positives)),
            "brier": brier,
            "brier_skill": 1 - brier / (rate * (1 - rate)),
            "log_loss": log_loss,
            "ece": float(np.abs(np.bincount(bin_index, weights * gap, bins)).sum() / len(gap)),
            "accuracy": 1 - wrong_share,
            "majority_accuracy": max(rate, 1 - rate),
            "cost": cost,
            "cost_accept_all": rule.false_negative * rate,
            "cost_decline_all": rule.false_positive * (1 - rate),
        }

    return bootstrap(statistics, labels, resamples, seed)


def average_precision(positives: Scores, negatives: Scores, rate: float) -> float:
    """Average precision from the shares of positive and negative rows below each threshold, and the positive rate."""
    declined_positives, declined_negatives = rate * (1 - positives[:-1]), (1 - rate) * (1 - negatives[:-1])
    declined = np.maximum(declined_positives + declined_negatives, np.finfo(np.float64).tiny)
    return float(np.diff(positives) @ (declined_positives / declined))


def auc_interval(labels: Labels, probabilities: Scores, resamples: int, seed: int) -> Interval | None:
    """Interval of the ROC AUC alone; None for too few rows of an outcome."""
    ranked = Ranked(labels, probabilities)
    return bootstrap(lambda weights: {"roc_auc": ranked.auc(weights)}, labels, resamples, seed).get("roc_auc")


def auc_difference(
    labels: Labels, probabilities: Scores, other: Scores, resamples: int, seed: int
) -> tuple[float, Interval | None]:
    """ROC AUC of `probabilities` minus that of `other` on the same rows, with its paired interval.

    Returns:
        The difference, and its 95 % interval or None for too few rows of an outcome.
    """
    ranked, ranked_other = Ranked(labels, probabilities), Ranked(labels, other)

    def statistics(weights: Weights) -> dict[str, float]:
        return {"difference": ranked.auc(weights) - ranked_other.auc(weights)}

    every_row_once = np.ones(len(labels), np.int64)
    return statistics(every_row_once)["difference"], bootstrap(statistics, labels, resamples, seed).get("difference")


class Ranked:
    """Rows in ascending order of probability."""

    def __init__(self, labels: Labels, probabilities: Scores) -> None:
        """Sorts labels and probabilities, both of shape (n,)."""
        self._order = np.argsort(probabilities, kind="stable")
        self._positive = labels[self._order] == 1
        ordered = probabilities[self._order]
        self._last_of_ties = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def shares_below(self, weights: Weights) -> tuple[Scores, Scores]:
        """Shares of the positive and of the negative rows up to each distinct probability, both from 0 to 1."""
        ordered = weights[self._order]
        every, positives = (
            np.append(0, np.cumsum(counts)[self._last_of_ties]) for counts in (ordered, ordered * self._positive)
        )
        negatives = every - positives
        return positives / positives[-1], negatives / negatives[-1]

    def auc(self, weights: Weights) -> float:
        """ROC AUC: the share of (positive, negative) pairs that are ranked correctly, ties counted half."""
        positives, negatives = self.shares_below(weights)
        return float(np.trapezoid(negatives, positives))
