"""YOURS. Stage 2: turns the raw text into the fields of the contract.

Reads:  1.data/1.raw/rows.parquet, 1.data/1.raw/manifest.json
Writes: 1.data/2.clean/rows.parquet       row id, date, outcome and one column per field
        1.data/2.clean/rejected.parquet   the rows that can't be used: raw columns, and the reason
        1.data/2.clean/metrics.json       rows in and out, rejected by reason, duplicates, unknown codes, …
Params: clean

Only the parsing of this data set's columns is here; `data/parsing.py` of the package says what else rejects a row, and
`data/cleaning.py` counts, and leaves out duplicates.
"""

from credit_risk.core.entry_point import run

import pandas as pd

from credit_risk.data.cleaning import run_stage
from credit_risk.data.parsing import Parsing, numbers


def money(text: "pd.Series[str]") -> "pd.Series[float]":
    """USD from text such as `$60,000.00`; NaN for anything else."""
    plain: pd.Series[float] = numbers(text.str.replace(r"^\$|,(?=[0-9]{3})", "", regex=True))
    return plain


def franchise(text: "pd.Series[str]") -> "pd.Series[str]":
    """Whether a franchise code names a franchise: 0 and 1 do not, with any number of leading zeros."""
    return text.str.fullmatch(r"0*[01]").map({True: "no", False: "yes"}).where(text.str.fullmatch(r"[0-9]+"))


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
        "new_business": {"1": "no", "2": "yes", "0": None},
        "urban_rural": {"1": "urban", "2": "rural", "0": None},
        "revolving_credit": {"Y": "yes", "N": "no", "0": None, "T": None},
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
