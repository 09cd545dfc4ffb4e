"""The scoring core alone, in its own process: validated application, features, ONNX, probability.

Usage: core.py CACHE APPLICATIONS      the API's model cache; a file with an application in JSON a line
Prints: microseconds a row as JSON: to validate the bytes, to score one application, to score sixteen in one call
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
from credit_risk.serving.request_model import parse

REPEATS = 9  # passes over all applications; their median counts
TOGETHER = 16


def main() -> None:
    """Measures and prints."""
    scorer = model_cache.load(Path(sys.argv[1])).scorer
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    applications = [parse(body) for body in bodies]
    groups = [applications[start : start + TOGETHER] for start in range(0, len(applications), TOGETHER)]

    def score(group: list[Any]) -> list[float]:
        scores: list[float] = scorer.score(
            np.array([FEATURES.row_values(it.__dict__) for it in group], np.float32)
        ).tolist()
        return scores

    figures = {
        "validate": microseconds_a_row(parse, bodies, len(bodies)),
        "one": microseconds_a_row(score, [[application] for application in applications], len(applications)),
        "sixteen": microseconds_a_row(score, groups, len(applications)),
    }
    print(json.dumps(figures))


def microseconds_a_row(function: Callable[[Any], Any], arguments: list[Any], rows: int) -> float:
    """Time of a call with each of the arguments, which have so many rows together; median of several passes."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for argument in arguments:
            function(argument)
        times.append((time.perf_counter() - start) / rows * 1e6)
    return median(times)


if __name__ == "__main__":
    main()
