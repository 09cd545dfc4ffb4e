"""The metrics that stage 6 reports and the gates check."""

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

from credit_risk.core.arrays import Labels, Scores


def measure(labels: Labels, probabilities: Scores, threshold: float, bins: int) -> dict[str, float]:
    """All metrics of one set of rows.

    Args:
        labels: shape (n,), 1 positive, 0 negative; both must occur.
        probabilities: shape (n,), of the positive class.
        threshold: a row is predicted positive when its probability is at least this.
        bins: of the expected calibration error.

    Returns:
        `rows`, `positive_rate`, `roc_auc`, `gini` (2 AUC - 1), `pr_auc` (average precision), `ks` (Kolmogorov-Smirnov:
        the largest gap between the distributions of the two classes), `brier`, `brier_skill`, `log_loss`, `ece`,
        `accuracy` at the threshold, and `majority_accuracy` of always predicting the more frequent class.
    """
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, probabilities)
    auc = float(roc_auc_score(labels, probabilities))
    rate = float(labels.mean())
    return {
        "rows": len(labels),
        "positive_rate": rate,
        "roc_auc": auc,
        "gini": 2 * auc - 1,
        "pr_auc": float(average_precision_score(labels, probabilities)),
        "ks": float(np.max(true_positive_rate - false_positive_rate)),
        "brier": float(brier_score_loss(labels, probabilities)),
        "brier_skill": brier_skill(labels, probabilities, rate),
        "log_loss": float(log_loss(labels, probabilities)),
        "ece": expected_calibration_error(labels, probabilities, bins),
        "accuracy": float(accuracy_score(labels, probabilities >= threshold)),
        "majority_accuracy": max(rate, 1 - rate),
    }


def brier_skill(labels: Labels, probabilities: Scores, base_rate: float) -> float:
    """1 - Brier score / Brier score of always predicting `base_rate`; above 0 is better than the base rate.

    Source: Brier (1950); Murphy (1973), "A new vector partition of the probability score".
    """
    reference = float(np.mean((labels - base_rate) ** 2))
    return 1 - float(brier_score_loss(labels, probabilities)) / reference


def bin_of(probabilities: Scores, bins: int) -> npt.NDArray[np.intp]:
    """The bin of equal width, from 0 to `bins` - 1, that each probability falls into, shape (n,)."""
    return np.minimum((probabilities * bins).astype(np.intp), bins - 1)


def expected_calibration_error(labels: Labels, probabilities: Scores, bins: int) -> float:
    """Mean gap between probability and positive rate over `bins` bins of equal width, weighted by their rows.

    Source: Naeini, Cooper & Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning".
    """
    gaps = np.bincount(bin_of(probabilities, bins), weights=labels - probabilities, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
