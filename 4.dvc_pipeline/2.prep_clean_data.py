"""Stage 2: turns the raw text into applicant fields of the contract.

Reads:  1.data/1.raw/loans.parquet
Writes: 1.data/2.clean/loans.parquet      loan number, approval date, outcome and one column a field
        1.data/2.clean/rejected.parquet   the rows that can't be used: raw columns, and the reason
        1.data/2.clean/metrics.json       rows in and out, rejected by reason, duplicates, loans without an outcome
Params: clean

Works in batches, so that memory does not grow with the rows. A loan number that stands more than once is kept where it
stands last (later files know more), and the others are rejected as duplicates.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from credit_risk.contract import APPROVAL_DATE, DEFAULT, FIELDS, LOAN_NUMBER, RAW_COLUMNS, Choice
from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data
from credit_risk.data.validation import failures

BATCH_ROWS = 100_000
DUPLICATE = "loan number stands again further down"

# Codes with a meaning; any other code is dirt and means unknown. Why each is read so: 1.data/readme.md.
WORDS: Mapping[str, Mapping[str, str]] = {
    "NewExist": {"1": "no", "2": "yes"},
    "UrbanRural": {"1": "urban", "2": "rural"},
    "RevLineCr": {"Y": "yes", "N": "no"},
    "LowDoc": {"Y": "yes", "N": "no"},
}
OUTCOMES = {"CHGOFF": 1, "P I F": 0, "": pd.NA}
NO_FRANCHISE = ("0", "1", "00000", "00001")
JOBS_UNKNOWN = 8800.0  # stands in both job columns of the same loans: a filler, not a number of jobs

CLEAN_SCHEMA = pa.schema(
    [
        (LOAN_NUMBER, pa.string()),
        (APPROVAL_DATE, pa.date32()),
        (DEFAULT, pa.int8()),
        *((field.name, pa.string() if isinstance(field, Choice) else pa.float64()) for field in FIELDS),
    ]
)


class CleanParams(params.Params):
    """Section `clean` of params.yaml."""

    max_rejected_share: float = Field(ge=0, le=1)


def main() -> None:
    """Runs the stage."""
    section = params.load("clean", CleanParams)
    raw = pq.ParquetFile(data("1.raw", "loans.parquet"))
    check_raw_columns(raw.schema_arrow.names)
    duplicates = repeated(raw)
    rejected_schema = pa.schema([*raw.schema_arrow, ("reason", pa.string())])
    reasons: Counter[str] = Counter()
    start = unlabelled = 0
    with (
        replacing(data("2.clean", "loans.parquet")) as clean_path,
        replacing(data("2.clean", "rejected.parquet")) as rejected_path,
        pq.ParquetWriter(clean_path, CLEAN_SCHEMA, compression="zstd") as clean_file,
        pq.ParquetWriter(rejected_path, rejected_schema, compression="zstd") as rejected_file,
    ):
        for batch in raw.iter_batches(BATCH_ROWS):
            frame = batch.to_pandas()
            clean, why = clean_rows(frame)
            why[duplicates[start : start + len(frame)]] = DUPLICATE
            rejected = frame.assign(reason=why)[why != ""]
            clean = clean[why == ""]
            clean_file.write_table(pa.Table.from_pandas(clean, CLEAN_SCHEMA, preserve_index=False))
            rejected_file.write_table(pa.Table.from_pandas(rejected, rejected_schema, preserve_index=False))
            reasons.update(rejected["reason"])
            unlabelled += int(clean[DEFAULT].isna().sum())
            start += len(frame)
        duplicated = reasons.pop(DUPLICATE, 0)
        check_rejected_share(reasons, start - duplicated, section.max_rejected_share)
    counts = {"rows": start, "duplicates": duplicated, "rejected": reasons.total(), "without_outcome": unlabelled}
    counts["clean"] = start - duplicated - reasons.total()
    write_json(data("2.clean", "metrics.json"), {**counts, "reasons": dict(reasons)})
    print(f"{counts['clean']:,} clean, {reasons.total():,} rejected, {duplicated:,} duplicates")


def check_raw_columns(names: list[str]) -> None:
    """The raw file must have the columns the contract knows, and no others.

    Raises:
        ProjectError: names the missing and the new ones, and the file to edit.
    """
    missing, new = sorted(RAW_COLUMNS - set(names)), sorted(set(names) - RAW_COLUMNS)
    if missing:
        raise ProjectError(
            f"column {', '.join(missing)} is missing from 1.data/1.raw/loans.parquet; "
            "add it to the source, or change the contract in src/credit_risk/contract.py"
        )
    if new:
        raise ProjectError(
            f"column {', '.join(new)} is not in the contract; say in src/credit_risk/contract.py "
            "whether it is an applicant field, an identity or unknown at approval, or take it out of the source"
        )


def repeated(raw: pq.ParquetFile) -> npt.NDArray[np.bool_]:
    """Which rows have a loan number that stands again further down, shape (rows,)."""
    numbers = raw.read(["LoanNr_ChkDgt"])["LoanNr_ChkDgt"].to_pandas()
    duplicated: npt.NDArray[np.bool_] = numbers.duplicated(keep="last").to_numpy()
    return duplicated


def check_rejected_share(reasons: Counter[str], rows: int, most: float) -> None:
    """Too many rejected rows mean that the source has changed, not that some rows are bad.

    Raises:
        ProjectError: names the share, the limit and the most frequent reason.
    """
    if reasons.total() > most * rows:
        reason, count = reasons.most_common(1)[0]
        raise ProjectError(
            f"{reasons.total():,} of {rows:,} rows are rejected, more than clean.max_rejected_share ({most:.2%}); "
            f"the most frequent reason: {reason} ({count:,} rows)"
        )


def clean_rows(raw: pd.DataFrame) -> "tuple[pd.DataFrame, pd.Series[str]]":
    """Cleans a batch.

    Args:
        raw: text columns as in the source.

    Returns:
        The frame of CLEAN_SCHEMA's columns, and for each row why it can't be used ("" when it can); the values of a
        row that can't be used mean nothing.
    """
    why = pd.Series("", index=raw.index, dtype="str")

    def reject(rows: "pd.Series[bool]", reason: str) -> None:
        why[rows & (why == "")] = reason

    number = raw["LoanNr_ChkDgt"].str.strip()
    reject(number == "", "LoanNr_ChkDgt is empty")
    clean = pd.DataFrame({LOAN_NUMBER: number, APPROVAL_DATE: approval_dates(raw["ApprovalDate"], raw["ApprovalFY"])})
    reject(clean[APPROVAL_DATE].isna(), "ApprovalDate is no date near its ApprovalFY")
    status = raw["MIS_Status"].str.strip()
    clean[DEFAULT] = status.map(OUTCOMES).astype("Int8")
    reject(~status.isin(OUTCOMES.keys()), f"MIS_Status is none of {', '.join(filter(None, OUTCOMES))}")
    for field in FIELDS:
        text = raw[field.raw].str.strip()
        if isinstance(field, Choice):
            clean[field.name] = words(field, text)
            continue
        clean[field.name] = values = money(text) if field.unit == "USD" else numbers(text)
        reject(values.isna() & (text != ""), f"{field.raw} is no number")
    clean["naics"] = clean["naics"].where(clean["naics"] != 0)
    for name in ("jobs_created", "jobs_retained"):
        clean[name] = clean[name].where(clean[name] != JOBS_UNKNOWN)
    broken = failures(clean[[field.name for field in FIELDS]])
    why.loc[broken.index] = why.loc[broken.index].where(why.loc[broken.index] != "", broken)
    return clean, why


def words(field: Choice, text: "pd.Series[str]") -> "pd.Series[str]":
    """The contract's words of a coded column; missing where the code means nothing."""
    if field.raw == "FranchiseCode":
        return text.isin(NO_FRANCHISE).map({True: "no", False: "yes"}).where(text != "")
    if field.raw in WORDS:
        return text.map(WORDS[field.raw])
    return text.where(text != "")


def money(text: "pd.Series[str]") -> "pd.Series[float]":
    """USD from text like `$60,000.00`; NaN where it is none."""
    return numbers(text.str.replace(r"^\$|,(?=\d{3})", "", regex=True))


def numbers(text: "pd.Series[str]") -> "pd.Series[float]":
    """Numbers from plain decimal text; NaN where it is none (also for `1e5` and `inf`, which no form holds)."""
    return pd.to_numeric(text.where(text.str.fullmatch(r"-?\d+(\.\d*)?"))).astype("float64")


def approval_dates(text: "pd.Series[str]", fiscal_year: "pd.Series[str]") -> "pd.Series[pd.Timestamp]":
    """Dates from text like `28-Feb-97`; NaT where it is none.

    The two-digit year is put into the century that brings it within a year of the fiscal year (which begins in October
    of the year before, and may carry a letter, as `1976A`): the usual pivot puts the 1960s a century too late.
    """
    parts = text.str.strip().str.extract(r"^(\d{1,2}-[A-Za-z]{3})-(\d{2})$")
    fiscal = pd.to_numeric(fiscal_year.str.strip().str.extract(r"^(\d{4})[A-Z]?$")[0])
    year = pd.to_numeric(parts[1])
    century = ((fiscal - year) / 100).round() * 100
    year = (century + year).where((century + year - fiscal).abs() <= 1)
    whole = parts[0] + "-" + year.astype("Int64").astype("str")
    return pd.to_datetime(whole, format="%d-%b-%Y", errors="coerce")


if __name__ == "__main__":
    run("stage 2", main)
