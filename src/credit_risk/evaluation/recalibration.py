"""What a recalibration does to the probabilities of rows that it was not fitted on."""

import numpy as np

from credit_risk.core.arrays import Labels, Scores
from credit_risk.evaluation.metrics import expected_calibration_error

_TWO_SIDED_95 = 1.96


def effect(labels: Labels, before: Scores, after: Scores, bins: int) -> dict[str, float]:
    """Errors of the probabilities before and after it; all arguments have the shape (n,).

    Returns:
        `ece_before`, `ece_after`, `brier_before`, `brier_after`, and `brier_change_high`: the upper end of the 95 %
        interval of the paired change of the Brier score, below 0 if it is better beyond chance.
    """
    changes = (after - labels) ** 2 - (before - labels) ** 2
    half = _TWO_SIDED_95 * float(np.std(changes)) / len(labels) ** 0.5
    return {
        "ece_before": expected_calibration_error(labels, before, bins),
        "ece_after": expected_calibration_error(labels, after, bins),
        "brier_before": float(np.mean((before - labels) ** 2)),
        "brier_after": float(np.mean((after - labels) ** 2)),
        "brier_change_high": float(changes.mean()) + half,
    }


def is_better(found: dict[str, float]) -> bool:
    """Whether an `effect` is an improvement beyond chance."""
    return found["brier_change_high"] < 0 and found["ece_after"] < found["ece_before"]
