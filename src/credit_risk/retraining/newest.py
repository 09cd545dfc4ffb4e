"""The newest rows with an outcome: those that the API has scored, else those of the data after the champion's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Floats, Labels
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID
from credit_risk.data.parsing import stored_ids
from credit_risk.data.splits import read_dates, read_holdout, split_path
from credit_risk.data.store import Store
from credit_risk.monitoring.outcomes import known_outcomes
from credit_risk.monitoring.shipping import read_shipped, shipped_days
from credit_risk.monitoring.window import Window
from credit_risk.registry import training_rows
from credit_risk.registry.client import Registry, Version

LOG, DATA = "scored rows with outcomes", "rows of the data after those of train"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with outcomes: fields (a frame), features (n, len(FEATURES)), labels and days (n,); and their origin."""

    fields: pd.DataFrame
    features: Floats
    labels: Labels
    days: npt.NDArray[np.datetime64]
    source: str

    def select(self, chosen: npt.NDArray[Any]) -> "Rows":
        """Some of the rows, by position or flag."""
        fields = self.fields.iloc[np.arange(len(self.labels))[chosen]]
        return Rows(fields, self.features[chosen], self.labels[chosen], self.days[chosen], self.source)

    def halves(self) -> tuple["Rows", "Rows"]:
        """The older and the newer half, by day."""
        days = self.days.astype(np.int64)
        older = days <= np.quantile(days, 0.5)
        return self.select(older), self.select(~older)

    def enough(self, min_rows: int) -> bool:
        """Whether both halves have so many rows of each outcome."""
        return len(self.labels) > 0 and all(
            np.bincount(half.labels, minlength=2).min() >= min_rows for half in self.halves()
        )


def newest_rows(registry: Registry, champion: Version, store: Store, count: int, min_rows: int) -> Rows:
    """At most `count` of the newest rows that have outcomes and that the champion was not trained on.

    Raises:
        ProjectError: neither the log nor the data have enough of each outcome.
    """
    found = [rows_of_log(store, count)]
    if found[0].enough(min_rows):
        return found[0]
    if CONTRACT.has_date:
        found.append(rows_of_data(last_trained_day(registry, champion), count))
        if found[1].enough(min_rows):
            return found[1]
    words = CONTRACT.problem
    shown = " and ".join(
        f"{len(rows.labels):,} {rows.source} ({int(rows.labels.sum()):,} {words.positive})" for rows in found
    )
    raise ProjectError(
        f"recalibration needs {min_rows} rows of each outcome (split.min_rows) in the older and the newer half of the "
        f"newest rows; there are {shown}; take in more with `uv run main.py outcomes`, or with --data"
    )


def rows_of_log(store: Store, count: int) -> Rows:
    """Rows of the shipped log with outcomes, the newest first until there are enough."""
    outcomes = known_outcomes(store)
    known, rows = set(outcomes[ROW_ID]), 0
    parts: list[pd.DataFrame] = []
    for day in reversed(shipped_days(store)) if known else []:
        for table in read_shipped(store, day):
            part = table.to_pandas()
            part = part.assign(**{ROW_ID: stored_ids(part[ROW_ID])})
            part = part[part[ROW_ID].isin(known)].dropna(
                subset=[field.name for field in CONTRACT.fields if field.required]
            )
            parts, rows = [*parts, part], rows + len(part)
        if rows >= count:
            break
    if not rows:
        return _none(LOG)
    frame = pd.concat(parts).sort_values("time", kind="stable").drop_duplicates(ROW_ID, keep="last").tail(count)
    window = Window.of(frame, outcomes)
    window = window.select(~np.isnan(window.labels))  # an outcome from before the prediction is left out
    days = window.rows["time"].dt.tz_localize(None).to_numpy("datetime64[D]")
    return Rows(window.rows[list(CONTRACT.field_names)], window.features, window.labels.astype(np.int8), days, LOG)


def rows_of_data(after: np.datetime64 | None, count: int) -> Rows:
    """Labelled rows of the out-of-time window, after a day."""
    if after is None or not split_path("out_of_time").exists():
        return _none(DATA)
    names = [name for name in ("calibration", "out_of_time") if split_path(name).exists()]
    parts = [read_holdout(name) for name in names]
    days = np.concatenate([np.asarray(read_dates(name)).astype("datetime64[D]") for name in names])
    rows = Rows(
        pd.concat([part.rows for part in parts], ignore_index=True),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        days,
        DATA,
    )
    order = np.argsort(days, kind="stable")
    return rows.select(order[days[order] > after][-count:])


def last_trained_day(registry: Registry, version: Version) -> np.datetime64 | None:
    """The date of the newest row that a version was trained on; None if that is not recorded."""
    last = (registry.read_json(version, training_rows.FILE_NAME) or {}).get("last_date")
    return np.datetime64(str(last)[:10]) if last else None


def _none(source: str) -> Rows:
    empty = np.empty(0)
    return Rows(pd.DataFrame(), empty.astype(np.float32), empty.astype(np.int8), empty.astype("datetime64[D]"), source)
