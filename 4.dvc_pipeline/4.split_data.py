"""Stage 4: splits the labelled loans into train, test and out-of-time.

Reads:  1.data/3.features/features.parquet
Writes: 1.data/4.split/train.parquet         older loans to learn from
        1.data/4.split/test.parquet          older loans held out: how well it works in the times it was trained on
        1.data/4.split/out_of_time.parquet   the newest loans, held out whole: how well it works afterwards
        1.data/4.split/metrics.json          rows, default rate and dates of each
Params: split

Loans without an outcome are in none of them. The out-of-time window is counted back from the newest labelled approval,
so new data moves it on and train grows. Between train and test a loan is placed by a hash of its number alone, so it
never changes sides when other loans arrive.
"""

import hashlib
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from credit_risk.contract import APPROVAL_DATE, DEFAULT, LOAN_NUMBER
from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data


class SplitParams(params.Params):
    """Section `split` of params.yaml."""

    out_of_time_months: int = Field(ge=1)
    test_share: float = Field(gt=0, lt=1)


def main() -> None:
    """Runs the stage."""
    section = params.load("split", SplitParams)
    loans = pq.read_table(data("3.features", "features.parquet"))
    loans = loans.filter(pc.is_valid(loans[DEFAULT]))
    sides = split(loans, section)
    for name, side in sides.items():
        check_side(name, side)
    for name, side in sides.items():
        with replacing(data("4.split", f"{name}.parquet")) as temporary:
            pq.write_table(side, temporary, compression="zstd")
    write_json(data("4.split", "metrics.json"), {name: facts(side) for name, side in sides.items()})
    print(", ".join(f"{name} {side.num_rows:,}" for name, side in sides.items()))


def split(loans: pa.Table, section: SplitParams) -> dict[str, pa.Table]:
    """Train, test and out_of_time of the labelled loans."""
    if not loans.num_rows:
        raise ProjectError("no loan has an outcome; the column MIS_Status of the source is empty")
    newest = pc.max(loans[APPROVAL_DATE]).as_py()
    cut = last_day_in_time(newest, section.out_of_time_months)
    late = pc.greater(loans[APPROVAL_DATE], pa.scalar(cut, pa.date32()))
    in_time = loans.filter(pc.invert(late))
    test = pa.array(hash_share(in_time[LOAN_NUMBER].to_pylist()) < section.test_share)
    return {"train": in_time.filter(pc.invert(test)), "test": in_time.filter(test), "out_of_time": loans.filter(late)}


def last_day_in_time(newest: date, months: int) -> date:
    """The last approval date before the newest `months` months."""
    return (pd.Timestamp(newest) - pd.DateOffset(months=months)).date()


def hash_share(loan_numbers: list[str]) -> npt.NDArray[np.float64]:
    """Where each loan number falls in [0, 1): the first 8 bytes of its SHA-256, as a share of 2^64."""
    digests = b"".join(hashlib.sha256(number.encode()).digest()[:8] for number in loan_numbers)
    return np.frombuffer(digests, ">u8") / 2.0**64


def check_side(name: str, side: pa.Table) -> None:
    """Each side needs both outcomes, or nothing can be learnt from it or measured on it."""
    if pc.count_distinct(side[DEFAULT]).as_py() < 2:  # noqa: PLR2004 (paid and charged off)
        raise ProjectError(
            f"{name} has {side.num_rows:,} loans and not both outcomes; change split.out_of_time_months or "
            "split.test_share in params.yaml, or add data"
        )


def facts(side: pa.Table) -> dict[str, Any]:
    """Rows, default rate and range of approval dates."""
    return {
        "rows": side.num_rows,
        "default_rate": round(pc.mean(side[DEFAULT]).as_py(), 6),
        "from": pc.min(side[APPROVAL_DATE]).as_py().isoformat(),
        "to": pc.max(side[APPROVAL_DATE]).as_py().isoformat(),
    }


if __name__ == "__main__":
    run("stage 4", main)
