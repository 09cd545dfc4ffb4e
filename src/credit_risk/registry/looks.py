"""Looks at a holdout: each version that a gate measures on it is one, and each look is a chance to pass by luck.

The count is in the registry, because versions of all machines are measured on the same rows. Holdouts are not rotated:
rows that were held out once would be trained on later, and versions could no longer be compared.
"""

import hashlib

from scipy.stats import norm

from credit_risk.contract import CONTRACT
from credit_risk.core.files import sha256
from credit_risk.core.paths import data
from credit_risk.registry.client import Registry, Version

_TAG = "holdout_sha256"  # of a version: the held-out rows that it was measured on
ERROR_RATE = 0.05  # of an interval


def count_looks(registry: Registry, version: Version) -> int:
    """How many versions were measured on today's held-out rows, this one included; records that it was."""
    files = [data("4.split", "rows", f"{name}.parquet") for name in CONTRACT.holdouts]
    digest = hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
    registry.tag(version.number, _TAG, digest)
    return len({version.number, *(each.number for each in registry.versions() if each.tags.get(_TAG) == digest)})


def adjusted(difference: float, interval: tuple[float, float], looks: int) -> tuple[float, float]:
    """A 95 % interval, widened so that after so many looks all of them together are wrong in 5 % of cases (Bonferroni).

    Each half is scaled as a normal distribution's, because few resamples have no extreme percentiles.
    """
    scale = float(norm.isf(ERROR_RATE / looks / 2) / norm.isf(ERROR_RATE / 2))
    return difference - scale * (difference - interval[0]), difference + scale * (interval[1] - difference)
