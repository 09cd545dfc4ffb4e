"""The rows of one split with the model's output."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from credit_risk.core.arrays import Floats, Labels, Scores


@dataclass(frozen=True, slots=True)
class ScoredSplit:
    """Rows of a split, in the order of its file.

    Attributes:
        features: shape (n, len(FEATURES)), float32.
        labels: shape (n,), 1 positive, 0 negative.
        probabilities: shape (n,), of the positive class; of train, those predicted out of fold.
        dates: shape (n,), or None where the contract has no date.
    """

    features: Floats
    labels: Labels
    probabilities: Scores
    dates: npt.NDArray[Any] | None
