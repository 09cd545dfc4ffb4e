"""Outcomes that became known after a prediction, by row id; a later date replaces an earlier one.

Each file that is taken in becomes one Parquet file, named after its content: taking it in again changes nothing.
"""

import gzip
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID, plain_code
from credit_risk.data.parsing import stored_ids
from credit_risk.data.sources import SUFFIXES, public, reason
from credit_risk.data.store import Store

OUTCOMES, REJECTED = "outcomes", "outcomes/_rejected"
SCHEMA = pa.schema([(ROW_ID, pa.string()), (OUTCOME, pa.int8()), (DATE, pa.date32())])
_CODES = (
    {"1": 1, "0": 0, CONTRACT.problem.positive: 1, CONTRACT.problem.negative: 0}
    | dict.fromkeys(map(plain_code, CONTRACT.target.positive), 1)
    | dict.fromkeys(map(plain_code, CONTRACT.target.negative), 0)
)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Rows of a file: taken in, and rejected."""

    rows: int
    rejected: int


def take_in(address: str, store: Store) -> TakenIn:
    """Takes in a file with the columns row id, outcome and date (of the day the outcome was known, as 2024-12-31).

    Row id and outcome may have the source's names and words. Rows that can't be used are kept with the reason. Ids that
    no prediction has are taken in: it may be shipped later.

    Raises:
        ProjectError: the file can't be read, lacks a column, or has no usable row.
    """
    content, frame = _read(address)
    ids, outcome = stored_ids(frame[ROW_ID]), frame[OUTCOME].str.strip().map(plain_code).map(_CODES)
    dates = pd.to_datetime(frame[DATE].str.strip(), format="%Y-%m-%d", errors="coerce")
    why = pd.Series("", index=frame.index, dtype="str")
    spelled = pd.DataFrame({ROW_ID: ids, DATE: dates, OUTCOME: outcome})
    twice = spelled.groupby([ROW_ID, DATE])[OUTCOME].transform("nunique") > 1
    known = _matching(ids, known_outcomes(store))
    contradicts = (known[DATE] == dates) & (known[OUTCOME] != outcome)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(tzinfo=None)
    for wrong, text in (
        (ids == "", "the row id is empty"),
        (outcome.isna(), f"the outcome is none of {', '.join(_CODES)}"),
        (dates.isna(), "the date is not a date like 2024-12-31"),
        (dates > tomorrow, "the date is in the future"),
        (twice, "the file has another outcome of this row and date"),
        (contradicts, "another outcome of this row and date is known; give a later date"),
    ):
        why[wrong & (why == "")] = text
    good = why == ""
    if not good.any():
        raise ProjectError(f"{public(address)} has no usable row; {why.iloc[0] if len(why) else 'it is empty'}")
    rows = pd.DataFrame({ROW_ID: ids, OUTCOME: outcome, DATE: dates.dt.date})[good]
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    if not good.all():
        store.write_table(f"{REJECTED}/{name}", pa.Table.from_pandas(frame.assign(reason=why)[~good]))
    store.write_table(f"{OUTCOMES}/{name}", pa.Table.from_pandas(rows, SCHEMA, preserve_index=False))
    return TakenIn(int(good.sum()), int((~good).sum()))


def known_outcomes(store: Store) -> pd.DataFrame:
    """The outcome of each row that has one: columns row id, outcome (0 or 1) and date."""
    names = [name for name in sorted(store.names(OUTCOMES)) if name.endswith(".parquet")]
    tables = [store.read_table(f"{OUTCOMES}/{name}") for name in names]
    frame: pd.DataFrame = pa.concat_tables([SCHEMA.empty_table(), *tables]).to_pandas()
    latest: pd.DataFrame = frame.sort_values(DATE, kind="stable").drop_duplicates(ROW_ID, keep="last")
    return latest


def labels_of(rows: pd.DataFrame, outcomes: pd.DataFrame) -> tuple[npt.NDArray[np.float64], int]:
    """The outcome of each scored row; NaN where none is known, or where it is dated before the row was scored.

    Args:
        rows: with row id and, if the outcomes have dates, `time`.
        outcomes: with row id, outcome and, in general, date.

    Returns:
        The labels, and how many outcomes are dated too early. A day earlier is another time zone.
    """
    known = _matching(stored_ids(rows[ROW_ID]), outcomes)
    labels: npt.NDArray[np.float64] = known[OUTCOME].to_numpy(np.float64, na_value=np.nan, copy=True)
    early = np.zeros(len(labels), bool)
    if DATE in known:
        scored = rows["time"].dt.tz_localize(None).dt.normalize()
        early = (known[DATE] < scored - pd.Timedelta(days=1)).to_numpy(bool)
    labels[early] = np.nan
    return labels, int(early.sum())


def _matching(ids: "pd.Series[str]", outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcome of each id, in the order and with the index of the ids; missing where there is none."""
    found = ids.to_frame(ROW_ID).merge(outcomes, "left", on=ROW_ID, validate="many_to_one").set_axis(ids.index)
    return found.assign(**{DATE: pd.to_datetime(found[DATE])}) if DATE in found else found


def _read(address: str) -> tuple[bytes, pd.DataFrame]:
    """A file's bytes, and its three columns as text."""
    if not (name := address.lower()).endswith(SUFFIXES):
        raise ProjectError(f"{public(address)} is not one of {', '.join(SUFFIXES)}")
    try:
        with fsspec.open(address if "://" in address else str(Path(address).resolve()), "rb") as file:
            content = file.read()
        if name.endswith(".parquet"):
            frame = pd.read_parquet(BytesIO(content))
        else:
            text = gzip.decompress(content) if name.endswith(".gz") else content
            frame = pd.read_csv(BytesIO(text), dtype="str", keep_default_na=False)
    except Exception as error:  # each file system and each parser has its own exceptions
        raise ProjectError(f"{public(address)} can't be read: {reason(error)}") from error
    names = {CONTRACT.target.column: OUTCOME} | ({CONTRACT.row_id.column: ROW_ID} if CONTRACT.row_id else {})
    frame = frame.rename(columns={old: new for old, new in names.items() if new not in frame.columns})
    if missing := [name for name in (ROW_ID, OUTCOME, DATE) if name not in frame.columns]:
        raise ProjectError(f"{public(address)} lacks the column {', '.join(missing)}")
    return content, frame[[ROW_ID, OUTCOME, DATE]].astype("str").fillna("")
