"""A window of predictions: rows of the shipped log between two days, as one version has scored them."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Floats, Scores
from credit_risk.data.store import Store
from credit_risk.features import FEATURES
from credit_risk.monitoring.outcomes import labels_of
from credit_risk.monitoring.shipping import SCHEMA, read_shipped, shipped_days


@dataclass(frozen=True, slots=True)
class Window:
    """Scored rows, in the order of time.

    Attributes:
        rows: frame with `time`, `row_id`, `version`, and the contract's fields.
        features: shape (n, len(FEATURES)), float32.
        probabilities: shape (n,).
        declined: shape (n,).
        labels: shape (n,): 1 positive, 0 negative, NaN where no outcome is known.
        early: how many outcomes are dated before the prediction, and not used.
    """

    rows: pd.DataFrame
    features: Floats
    probabilities: Scores
    declined: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.float64]
    early: int = 0

    @classmethod
    def of(cls, predictions: pd.DataFrame, outcomes: pd.DataFrame) -> Self:
        """The window of predictions (columns of the log), with the outcomes that are known; see `labels_of`."""
        rows = predictions.sort_values("time", kind="stable", ignore_index=True)
        fields: dict[str, Any] = {name: rows[name] for name in CONTRACT.field_names}
        return cls(
            rows,
            FEATURES.from_columns(fields),
            rows["probability"].to_numpy(np.float64),
            (rows["decision"] == CONTRACT.problem.decline).to_numpy(bool),
            *labels_of(rows, outcomes),
        )

    def select(self, chosen: npt.NDArray[Any]) -> "Window":
        """Some of the rows: `chosen` has their positions, or for each row whether it is one of them."""
        return Window(
            self.rows.iloc[chosen].reset_index(drop=True),
            self.features[chosen],
            self.probabilities[chosen],
            self.declined[chosen],
            self.labels[chosen],
        )


def read_predictions(store: Store, first: date, last: date) -> pd.DataFrame:
    """The shipped predictions of some days, both included; columns as in the log."""
    chosen = [day for day in shipped_days(store) if first.isoformat() <= day <= last.isoformat()]
    tables = [table for day in chosen for table in read_shipped(store, day)]
    frame: pd.DataFrame = pa.concat_tables([SCHEMA.empty_table(), *tables]).to_pandas()
    return frame
