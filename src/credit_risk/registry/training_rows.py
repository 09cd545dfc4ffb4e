"""Which rows a version was trained on, recorded with it: so that a gate detects that it has seen held-out rows.

The split moves with the data, and a version that was trained on rows that are held out today would look too good.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FILE_NAME = "training_rows.json"  # logged with the version's run
SAMPLE = 5_000  # row ids that are recorded, by their hash


def summarize(row_ids: Sequence[str], last_date: str | None) -> dict[str, Any]:
    """The number of rows, their last date, and the smallest hashes of their ids: the same sample in every data set."""
    smallest = np.sort(_hashes(row_ids))[:SAMPLE]
    return {"rows": len(row_ids), "last_date": last_date, "row_id_hashes": smallest.tolist()}


def seen_share(summary: dict[str, Any], row_ids: Sequence[str]) -> float:
    """The share of rows that a version was trained on; estimated from the sample if it had more rows than that."""
    known, hashes = np.array(summary["row_id_hashes"], np.uint64), _hashes(row_ids)
    if summary["rows"] > len(known):
        hashes = hashes[hashes <= known.max()]  # larger ones could not be in the sample
    return float(np.isin(hashes, known).mean()) if len(hashes) else 0.0


def _hashes(row_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(row_id.encode(), digest_size=8).digest() for row_id in row_ids)
    return np.frombuffer(digests, np.uint64)
