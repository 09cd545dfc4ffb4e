"""YOURS. Stage 2: turns the raw text into the fields of the contract.

Reads:  1.data/1.raw/rows.parquet
Writes: 1.data/2.clean/rows.parquet       row id, date, outcome and one column per field
        1.data/2.clean/rejected.parquet   the rows that can't be used: raw columns, and the reason
        1.data/2.clean/metrics.json       rows in and out, rejected by reason, duplicates, rows without an outcome
Params: clean

Only the parsing of this data set's columns is here; batches, rejection, counting and duplicates are in
`data/cleaning.py` of the package.
"""

from credit_risk.core.entry_point import run

import pandas as pd

from credit_risk.data.cleaning import Parsing, numbers, run_stage

NO_FRANCHISE = ("0", "1", "00000", "00001")


def money(text: "pd.Series[str]") -> "pd.Series[float]":
    """USD from text such as `$60,000.00`; NaN for anything else."""
    plain: pd.Series[float] = numbers(text.str.replace(r"^\$|,(?=[0-9]{3})", "", regex=True))
    return plain


def franchise(text: "pd.Series[str]") -> "pd.Series[str]":
    """Whether a franchise code names a franchise."""
    return text.isin(NO_FRANCHISE).map({True: "no", False: "yes"}).where(text != "")


def approval_dates(raw: pd.DataFrame) -> "pd.Series[pd.Timestamp]":
    """Dates from text such as `28-Feb-97`; NaT for anything else.

    The two-digit year gets the century that brings the date within a year of the fiscal year (which begins in October
    of the year before, and may carry a letter, as `1976A`): the usual pivot puts the 1960s a century too late.
    """
    parts = raw["ApprovalDate"].str.strip().str.extract(r"^([0-9]{1,2}-[A-Za-z]{3})-([0-9]{2})$")
    fiscal = pd.to_numeric(raw["ApprovalFY"].str.strip().str.extract(r"^([0-9]{4})[A-Z]?$")[0])
    year = pd.to_numeric(parts[1])
    century = ((fiscal - year) / 100).round() * 100
    year = (century + year).where((century + year - fiscal).abs() <= 1)
    whole = parts[0] + "-" + year.astype("Int64").astype("str")
    return pd.to_datetime(whole, format="%d-%b-%Y", errors="coerce")


# The reason for each of these is in 1.data/readme.md.
PARSING = Parsing(
    missing=frozenset({"", "NA", "N/A", "NULL", "null", "NaN", "nan", "None"}),
    words={
        "new_business": {"1": "no", "2": "yes"},
        "urban_rural": {"1": "urban", "2": "rural"},
        "revolving_credit": {"Y": "yes", "N": "no"},
        "low_doc": {"Y": "yes", "N": "no"},
    },
    parsers={"gross_approved": money, "sba_guaranteed": money, "franchise": franchise},
    fillers={
        "naics": frozenset({0.0}),
        "jobs_created": frozenset({8800.0}),  # in both job columns of the same loans: not a number of jobs
        "jobs_retained": frozenset({8800.0}),
    },
    date=approval_dates,
)


if __name__ == "__main__":
    run("stage 2", lambda: run_stage(PARSING))
