"""Types of the arrays that modules pass to each other."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int8]  # 1 for the positive class, 0 for the negative class
Scores = npt.NDArray[np.float64]  # probabilities of the positive class
