"""The held-out loans, as applications and as features: what the gates measure a registered model on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from credit_risk.contract import FIELD_NAMES, FIELDS, LOAN_NUMBER, Number
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import data, relative
from credit_risk.model import Labels, read_split


@dataclass(frozen=True, slots=True)
class Holdout:
    """Held-out loans, row by row: applicant fields, features (n, len(FEATURES)) in float32, and labels (n,)."""

    applications: pd.DataFrame
    features: npt.NDArray[np.float32]
    labels: Labels


def read_holdout(side: str) -> Holdout:
    """The held-out loans of a side of the split: `test` or `out_of_time`.

    Raises:
        ProjectError: the pipeline's files are missing, or stages 2 and 4 have seen different loans.
    """
    clean, split = data("2.clean", "loans.parquet"), data("4.split", f"{side}.parquet")
    for path in (clean, split):
        if not path.exists():
            raise ProjectError(f"{relative(path)} is missing; run the pipeline first: `uv run main.py`")
    numbers = pq.read_table(split, columns=[LOAN_NUMBER])[LOAN_NUMBER].to_pandas()
    applications = pd.read_parquet(clean, columns=[LOAN_NUMBER, *FIELD_NAMES]).set_index(LOAN_NUMBER)
    try:
        chosen = applications.loc[numbers].reset_index(drop=True)
    except KeyError as error:
        raise ProjectError(
            f"{relative(split)} has loans that {relative(clean)} has not; run `uv run dvc repro -P`"
        ) from error
    features, labels = read_split(split)
    return Holdout(chosen, features, labels)


def as_frame(applications: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Applications as a frame of the contract: float64 for numbers (NaN when missing), words or None otherwise."""
    frame = pd.DataFrame(list(applications), columns=list(FIELD_NAMES))
    return frame.astype({field.name: "float64" for field in FIELDS if isinstance(field, Number)})


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame of the contract as applications; missing values are None, as in JSON."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
