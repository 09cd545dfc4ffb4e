"""Stage 4: splits the labelled rows into train, test and, where they have dates, out-of-time.

Reads:  1.data/3.features/features.parquet
Writes: 1.data/4.split/rows               train.parquet, test.parquet and, with dates, out_of_time.parquet; with
                                          split.calibration_months also calibration.parquet
        1.data/4.split/metrics.json       rows, positive rate and dates of each; what the performance window left out
Params: split

`test` measures the model in the period that it was trained on; `out_of_time`, the newest rows, measures it afterwards.
Rows without an outcome are in neither, nor are those younger than `split.performance_months`, counted back from
`split.observed_until`, or from the newest row: outcomes come late, and not both at the same speed. The out-of-time
window is counted back from the newest date that is left, so with new data it moves on and train grows. `calibration` is
the oldest part of that window: `train.calibration: newest` fits a sigmoid on it, and nothing is measured on it. A hash
of the row id, salted with the project's name, decides between train and test: nobody has chosen it, and a row never
changes its split when others arrive.
"""

from credit_risk.core.entry_point import run

import shutil
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.data.splits import hash_share, split_path


class SplitParams(params.Params):
    """Section `split` of params.yaml."""

    performance_months: int | None = Field(None, ge=0)
    observed_until: date | None = None
    out_of_time_months: int | None = Field(None, ge=1)  # needed where rows have dates
    calibration_months: int | None = Field(None, ge=1)  # of the out-of-time months, the oldest
    test_share: float = Field(gt=0, lt=1)
    min_rows: int = Field(ge=1)

    @field_validator("observed_until", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f'write it in quotes, as "{value}"')  # the lineage has parameters as JSON, without dates


def main() -> None:
    """Runs the stage."""
    section = params.load("split", SplitParams)
    rows, window = leave_out_young(pq.read_table(data("3.features", "features.parquet")), section)
    splits = split(rows.filter(pc.is_valid(rows[OUTCOME])), section)
    for name, part in splits.items():
        check_split(name, part, section.min_rows)
    shutil.rmtree(data("4.split", "rows"), ignore_errors=True)  # without a date, no older out_of_time may stay
    for name, part in splits.items():
        with replacing(split_path(name)) as temporary:
            pq.write_table(part, temporary, compression="zstd")
    write_json(data("4.split", "metrics.json"), {name: summary(part) for name, part in splits.items()} | window)
    counts = {name: part.num_rows for name, part in splits.items()}
    if young := window.get("performance_window", {}).get("rows"):
        counts["too young"] = young
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


def leave_out_young(rows: pa.Table, section: SplitParams) -> tuple[pa.Table, dict[str, Any]]:
    """The rows that are `performance_months` old on the day until which outcomes were observed, and what the rest is.

    Of the younger ones, those with an outcome are not a fair sample: the two outcomes take different times to show.

    Returns:
        The rows, and `performance_window` with the parameters, the number of younger rows, how many of them have an
        outcome, and the share of positive rows among these; empty without a window.

    Raises:
        ProjectError: rows have no date, or one after the observation ended, or none is old enough.
    """
    if not section.performance_months:
        return rows, {}
    if not CONTRACT.has_date:
        raise ProjectError("params.yaml: split.performance_months needs rows with dates; delete it")
    newest = pc.max(rows[DATE]).as_py()
    observed = section.observed_until or newest
    if newest > observed:
        raise ProjectError(f"params.yaml: split.observed_until is {observed}, but the newest row is of {newest}")
    old, young = divide(rows, last_day_in_time(observed, section.performance_months))
    if not old.num_rows:
        raise ProjectError(
            f"params.yaml: no row is {section.performance_months} months (split.performance_months) old on {observed}"
        )
    labelled = young.filter(pc.is_valid(young[OUTCOME]))
    share = pc.mean(labelled[OUTCOME]).as_py()
    window = {"months": section.performance_months, "observed_until": observed.isoformat(), "rows": young.num_rows}
    window |= {"labelled": labelled.num_rows, "positive_rate": None if share is None else round(share, 6)}
    return old, {"performance_window": window}


def split(rows: pa.Table, section: SplitParams) -> dict[str, pa.Table]:
    """The labelled rows by name of their split."""
    if not rows.num_rows:
        raise ProjectError(f"no row has an outcome; column {CONTRACT.target.column} of the source is empty")
    later: dict[str, pa.Table] = {}
    if CONTRACT.has_date:
        rows, later = split_by_date(rows, section)
    elif section.calibration_months:
        raise ProjectError("params.yaml: split.calibration_months needs rows with dates; delete it")
    test = pa.array(hash_share(rows[ROW_ID].to_pylist()) < section.test_share)
    return {"train": rows.filter(pc.invert(test)), "test": rows.filter(test), **later}


def split_by_date(rows: pa.Table, section: SplitParams) -> tuple[pa.Table, dict[str, pa.Table]]:
    """The older rows, and the newest ones by name of their split."""
    if section.out_of_time_months is None:
        raise ProjectError("params.yaml: split.out_of_time_months is missing; rows have dates")
    newest = pc.max(rows[DATE]).as_py()
    rows, late = divide(rows, last_day_in_time(newest, section.out_of_time_months))
    if not section.calibration_months:
        return rows, {"out_of_time": late}
    if (months := section.out_of_time_months - section.calibration_months) < 1:
        raise ProjectError("params.yaml: split.calibration_months must be less than split.out_of_time_months")
    calibration, late = divide(late, last_day_in_time(newest, months))
    return rows, {"calibration": calibration, "out_of_time": late}


def divide(rows: pa.Table, last: date) -> tuple[pa.Table, pa.Table]:
    """The rows until a day, and those after it."""
    later = pc.greater(rows[DATE], pa.scalar(last, pa.date32()))
    return rows.filter(pc.invert(later)), rows.filter(later)


def last_day_in_time(newest: date, months: int) -> date:
    """The last date before the newest `months` months."""
    return (pd.Timestamp(newest) - pd.DateOffset(months=months)).date()


def check_split(name: str, part: pa.Table, min_rows: int) -> None:
    """A split with few rows of an outcome can't be used to fit or to measure a model.

    Raises:
        ProjectError: names the split, its rows of each outcome and, if it is out of time, its newest date.
    """
    positive = pc.sum(part[OUTCOME]).as_py() or 0
    negative = part.num_rows - positive
    if min(positive, negative) >= min_rows:
        return
    words = CONTRACT.problem
    newest = f"; the newest date is {pc.max(part[DATE])}" if name == "out_of_time" else ""
    raise ProjectError(
        f"{name} has {part.num_rows:,} {words.rows}, {positive:,} {words.positive} and {negative:,} {words.negative}, "
        f"and needs {min_rows} of each (split.min_rows){newest}; change section split of params.yaml, or add data"
    )


def summary(part: pa.Table) -> dict[str, Any]:
    """Rows, positive rate and range of dates."""
    counted = {"rows": part.num_rows, "positive_rate": round(pc.mean(part[OUTCOME]).as_py(), 6)}
    if not CONTRACT.has_date:
        return counted
    dates = pc.min_max(part[DATE]).as_py()
    return counted | {"from": dates["min"].isoformat(), "to": dates["max"].isoformat()}


if __name__ == "__main__":
    run("stage 4", main)
