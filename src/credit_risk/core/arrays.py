"""Types of the arrays that modules pass to each other, and the scale of log-odds."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int8]  # 1 for the positive class, 0 for the negative class
Scores = npt.NDArray[np.float64]  # probabilities of the positive class


def log_odds(probabilities: npt.ArrayLike, smallest: float = 1e-7) -> Scores:
    """ln(p / (1 - p)) of each probability; those nearer than `smallest` to 0 or 1 are moved there, to stay finite."""
    inside = np.clip(np.asarray(probabilities, np.float64), smallest, 1 - smallest)
    odds: Scores = np.log(inside / (1 - inside))
    return odds
