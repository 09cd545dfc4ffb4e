"""Validation and scoring without HTTP, in a process of its own.

Usage: core.py CACHE ROWS      the API's model cache; a file with one row in JSON per line
Prints: microseconds per row as JSON: to validate the bytes, to score one row, to score sixteen in one call
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from credit_risk.features import FEATURES
from credit_risk.serving import model_cache
from credit_risk.serving.request_model import parse_row

REPEATS = 9  # passes over all rows; their median counts
GROUP = 16


def main() -> None:
    """Measures and prints."""
    scorer = model_cache.load(Path(sys.argv[1])).scorer
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    rows = [parse_row(body) for body in bodies]
    groups = [rows[start : start + GROUP] for start in range(0, len(rows), GROUP)]

    def score(group: list[Any]) -> list[float]:
        scores: list[float] = scorer.score(
            np.array([FEATURES.row_values(vars(row)) for row in group], np.float32)
        ).tolist()
        return scores

    figures = {
        "validate": microseconds_per_row(parse_row, bodies, len(bodies)),
        "one": microseconds_per_row(score, [[row] for row in rows], len(rows)),
        "sixteen": microseconds_per_row(score, groups, len(rows)),
    }
    print(json.dumps(figures))


def microseconds_per_row(function: Callable[[Any], Any], arguments: list[Any], rows: int) -> float:
    """Median over several passes of the time per row of calling a function with each argument."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for argument in arguments:
            function(argument)
        times.append((time.perf_counter() - start) / rows * 1e6)
    return median(times)


if __name__ == "__main__":
    main()
