"""Reference rows: some rows with the scores that the model gave them at registration, stored with the version.

They are scored again when a version is loaded. Other scores mean that the model is not computed as it was: other code,
other libraries or a damaged file.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE_NAME = "reference_rows.json"
TOLERANCE = 1e-6  # between two ways to compute one score in float32

Score = Callable[[Sequence[dict[str, Any]]], npt.ArrayLike]


def write_reference_rows(path: Path, rows: Sequence[dict[str, Any]], scores: npt.ArrayLike) -> None:
    """Writes rows (a missing value is None) and their scores as JSON."""
    content = {"rows": list(rows), "scores": np.asarray(scores, np.float64).tolist()}
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def max_score_difference(path: Path, score: Score) -> float:
    """The largest difference between the stored scores of the reference rows and their scores now.

    Args:
        path: a file of `write_reference_rows`.
        score: gives the probability of the positive class of each row.
    """
    reference = json.loads(path.read_text(encoding="utf-8"))
    return float(np.max(np.abs(np.asarray(score(reference["rows"])) - np.asarray(reference["scores"]))))
