"""Reference rows: a few applications with the scores the model gave them when it was registered, kept with the version.

Whoever loads the version later scores them again: another result means that the model is not computed as it was, be it
by other code, other libraries or a damaged file.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE_NAME = "reference_rows.json"
TOLERANCE = 1e-6  # what float32 leaves open between two ways to compute one score

Score = Callable[[Sequence[dict[str, Any]]], npt.ArrayLike]


def write_reference_rows(path: Path, applications: Sequence[dict[str, Any]], scores: npt.ArrayLike) -> None:
    """Writes applications (a missing value is None) and their scores as JSON."""
    content = {"applications": list(applications), "scores": np.asarray(scores, np.float64).tolist()}
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def max_score_difference(path: Path, score: Score) -> float:
    """How far the scores of the reference rows are from what they were.

    Args:
        path: a file of `write_reference_rows`.
        score: gives the probability of default of each of a list of applications.
    """
    reference_rows = json.loads(path.read_text(encoding="utf-8"))
    return float(
        np.max(np.abs(np.asarray(score(reference_rows["applications"])) - np.asarray(reference_rows["scores"])))
    )
