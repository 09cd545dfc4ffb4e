"""The hash that stage 4 splits by, reading its files, and the held-out rows with their fields."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Labels
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import data, relative
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.features import FEATURES


@dataclass(frozen=True, slots=True)
class Holdout:
    """Held-out rows: fields (a frame of the contract), features (n, len(FEATURES)) in float32, and labels (n,)."""

    rows: pd.DataFrame
    features: npt.NDArray[np.float32]
    labels: Labels


def hash_share(row_ids: list[str], salt: str = CONTRACT.problem.name) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row id: the first 8 bytes of the SHA-256 of `salt:row_id`, as a share of 2^64.

    The salt is the project's name, so that nobody has chosen the split: among several, the luckiest is soon preferred.
    """
    digests = b"".join(hashlib.sha256(f"{salt}:{row_id}".encode()).digest()[:8] for row_id in row_ids)
    return np.frombuffer(digests, ">u8") / 2.0**64


def split_path(split: str) -> Path:
    """The file of a split: `train`, `test` or `out_of_time`."""
    return data("4.split", "rows", f"{split}.parquet")


def read_split(split: str, names: Sequence[str] = FEATURES.names) -> tuple[npt.NDArray[np.float32], Labels]:
    """Features, shape (n, len(names)) in float32, and labels, shape (n,), of a split."""
    table = pq.read_table(split_path(split), columns=[*names, OUTCOME])
    features = np.empty((table.num_rows, len(names)), np.float32)
    for index, name in enumerate(names):
        features[:, index] = table[name].to_numpy()
    return features, table[OUTCOME].to_numpy().astype(np.int8)


def read_row_ids(split: str) -> list[str]:
    """The id of each row of a split."""
    ids: list[str] = pq.read_table(split_path(split), columns=[ROW_ID])[ROW_ID].to_pylist()
    return ids


def read_dates(split: str) -> npt.NDArray[Any] | None:
    """The date of each row of a split, shape (n,); None without a date in the contract."""
    if not CONTRACT.has_date:
        return None
    dates: npt.NDArray[Any] = pq.read_table(split_path(split), columns=[DATE])[DATE].to_numpy()
    return dates


def read_holdout(split: str) -> Holdout:
    """The rows of a holdout with their fields.

    Raises:
        ProjectError: the pipeline's files are missing, or stages 2 and 4 have seen different rows.
    """
    clean, path = data("2.clean", "rows.parquet"), split_path(split)
    for file in (clean, path):
        if not file.exists():
            raise ProjectError(f"{relative(file)} is missing; run the pipeline first: `uv run main.py`")
    ids = pq.read_table(path, columns=[ROW_ID])[ROW_ID].to_pandas()
    rows = pd.read_parquet(clean, columns=[ROW_ID, *CONTRACT.field_names]).set_index(ROW_ID)
    try:
        chosen = rows.loc[ids].reset_index(drop=True)
    except KeyError as error:
        raise ProjectError(
            f"{relative(path)} has rows that are not in {relative(clean)}; run `uv run dvc repro -P`"
        ) from error
    return Holdout(chosen, *read_split(split))


def as_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame of the contract: float64 for numbers (NaN when missing), words or None otherwise."""
    frame = pd.DataFrame(list(rows), columns=list(CONTRACT.field_names))
    return frame.astype({number.name: "float64" for number in CONTRACT.numbers})


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame of the contract as dictionaries; missing values are None, as in JSON."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
