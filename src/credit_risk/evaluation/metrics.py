"""How good scores are: the figures that stage 6 reports and the gates check."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Interval = tuple[float, float]


def measure(labels: Labels, scores: Scores, threshold: float, bins: int) -> dict[str, float]:
    """All figures of one set of loans.

    Args:
        labels: shape (n,), 1 for default, 0 for paid in full; both must occur.
        scores: shape (n,), probabilities of default.
        threshold: a loan is refused when its score is at least this.
        bins: of the expected calibration error.

    Returns:
        `roc_auc`, `gini` (2 AUC - 1), `pr_auc` (average precision), `ks` (Kolmogorov-Smirnov: the largest gap between
        the score distributions of the two classes), `brier`, `brier_skill`, `log_loss`, `ece`, `accuracy` at the
        threshold, `majority_accuracy` of always naming the more frequent class, `default_rate`, and `rows`.
    """
    false_positive, true_positive, _ = roc_curve(labels, scores)
    auc = float(roc_auc_score(labels, scores))
    rate = float(labels.mean())
    return {
        "rows": len(labels),
        "default_rate": rate,
        "roc_auc": auc,
        "gini": 2 * auc - 1,
        "pr_auc": float(average_precision_score(labels, scores)),
        "ks": float(np.max(true_positive - false_positive)),
        "brier": float(brier_score_loss(labels, scores)),
        "brier_skill": brier_skill(labels, scores, rate),
        "log_loss": float(log_loss(labels, scores)),
        "ece": expected_calibration_error(labels, scores, bins),
        "accuracy": float(accuracy_score(labels, scores >= threshold)),
        "majority_accuracy": max(rate, 1 - rate),
    }


def brier_skill(labels: Labels, scores: Scores, base_rate: float) -> float:
    """1 - Brier score / that of always saying `base_rate`: above 0, the scores know more than the class shares.

    Source: Brier (1950); Murphy (1973), "A new vector partition of the probability score".
    """
    reference = float(np.mean((labels - base_rate) ** 2))
    return 1 - float(brier_score_loss(labels, scores)) / reference


def expected_calibration_error(labels: Labels, scores: Scores, bins: int) -> float:
    """Mean gap between score and default rate over `bins` bins of equal width, weighted by their loans.

    Source: Naeini, Cooper & Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning".
    """
    which = np.minimum((scores * bins).astype(np.intp), bins - 1)
    gaps = np.bincount(which, weights=labels - scores, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def auc_interval(labels: Labels, scores: Scores, resamples: int, seed: int) -> Interval:
    """95 % percentile bootstrap interval of the ROC AUC."""
    return _interval([auc(scores_counts) for (scores_counts,) in _resampled(labels, [scores], resamples, seed)])


def auc_difference_interval(
    labels: Labels, scores: Scores, other: Scores, resamples: int, seed: int
) -> tuple[float, Interval]:
    """ROC AUC of `scores` minus that of `other` on the same loans, with its 95 % paired bootstrap interval."""
    differences = [
        auc(counts) - auc(other_counts) for counts, other_counts in _resampled(labels, [scores, other], resamples, seed)
    ]
    return float(roc_auc_score(labels, scores) - roc_auc_score(labels, other)), _interval(differences)


Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def auc(counts: Counts) -> float:
    """ROC AUC from the numbers of paid and defaulted loans at each distinct score, ascending.

    The share of (defaulted, paid) pairs in which the defaulted loan scores higher, ties counted half: Mann-Whitney's U.
    """
    paid, defaulted = counts
    below = np.cumsum(paid) - paid
    pairs = float(paid.sum()) * float(defaulted.sum())
    return float((defaulted * (below + paid / 2)).sum() / pairs)


def _resampled(labels: Labels, scored: list[Scores], resamples: int, seed: int) -> Iterator[list[Counts]]:
    """For each bootstrap resample of the loans, the counts by distinct score of each of the scorings.

    Sorting once and counting draws makes a resample linear in the loans.
    """
    rng = np.random.default_rng(seed)
    rows = len(labels)
    paid, defaulted = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    places = [np.unique(scores, return_inverse=True) for scores in scored]
    for _ in range(resamples):
        draws = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        yield [
            (
                np.bincount(place[paid], weights=draws[paid], minlength=len(distinct)).astype(np.int64),
                np.bincount(place[defaulted], weights=draws[defaulted], minlength=len(distinct)).astype(np.int64),
            )
            for distinct, place in places
        ]


def _interval(values: list[float]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
