"""Stage 2 on loans: how the columns of the SBA data are parsed, with rows written by hand."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from projects import Project, lone_stage, run_script, script

STAGE = "4.dvc_pipeline/2.prep_clean_data.py"
GOOD = {
    "LoanNr_ChkDgt": "1000014003", "Name": "ABC", "City": "EVANSVILLE", "State": "IN", "Zip": "47711", "Bank": "FIFTH",
    "BankState": "OH", "NAICS": "451120", "ApprovalDate": "28-Feb-97", "ApprovalFY": "1997", "Term": "84", "NoEmp": "4",
    "NewExist": "2", "CreateJob": "1", "RetainedJob": "3", "FranchiseCode": "1", "UrbanRural": "0", "RevLineCr": "N",
    "LowDoc": "Y", "ChgOffDate": "", "DisbursementDate": "28-Feb-99", "DisbursementGross": "$60,000.00 ",
    "BalanceGross": "$0.00 ", "MIS_Status": "P I F", "ChgOffPrinGr": "$0.00 ", "GrAppv": "$60,000.00 ",
    "SBA_Appv": "$48,000.00 ",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, inside: Callable[[Project], None]) -> Project:
    """A folder with raw rows and parameters, for the stage alone."""
    project = lone_stage(tmp_path, STAGE, "1.raw", "clean: {max_rejected_share: 1, max_unknown_share: 1}")
    inside(project)
    return project


def clean(project: Project, *changes: dict[str, str]) -> int:
    """Runs the stage on one row a change; each has a loan number of its own unless the change says otherwise."""
    raw = pd.DataFrame([GOOD | {"LoanNr_ChkDgt": str(10**9 + i)} | change for i, change in enumerate(changes)])
    raw.to_parquet(project.path("1.data", "1.raw", "rows.parquet"))
    project.path("1.data", "1.raw", "manifest.json").write_text(json.dumps([{"source": "x.csv", "rows": len(raw)}]))
    return run_script(project, STAGE)


def read(project: Project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.path("1.data", "2.clean", f"{name}.parquet"))


def metrics(project: Project) -> Any:
    return json.loads(project.path("1.data", "2.clean", "metrics.json").read_text())


def test_a_row_by_hand(root: Project) -> None:
    assert clean(root, {}) == 0
    row = read(root, "rows").iloc[0]
    assert row.to_dict() | {"urban_rural": None} == {
        "row_id": "1000000000",
        "date": date(1997, 2, 28),
        "outcome": 0,
        "gross_approved": 60_000.0,
        "sba_guaranteed": 48_000.0,
        "naics": 451_120.0,
        "state": "IN",
        "lender": "FIFTH",
        "bank_state": "OH",
        "employees": 4.0,
        "jobs_created": 1.0,
        "jobs_retained": 3.0,
        "new_business": "yes",
        "franchise": "no",
        "urban_rural": None,
        "revolving_credit": "no",
        "low_doc": "yes",
    }
    assert pd.isna(row["urban_rural"])


@pytest.mark.parametrize(
    ("text", "fiscal_year", "expected"),
    [
        ("28-Feb-97", "1997", date(1997, 2, 28)),
        ("7-Feb-06", "2006", date(2006, 2, 7)),
        ("1-Oct-99", "2000", date(1999, 10, 1)),  # the fiscal year begins in October
        ("7-Dec-61", "1962", date(1961, 12, 7)),  # the usual pivot says 2061
        ("3-Jun-76", "1976A", date(1976, 6, 3)),
        ("31-Dec-69", "1970", date(1969, 12, 31)),
        ("29-Feb-99", "1999", None),
        ("31-Dec-30", "2031", date(2030, 12, 31)),
        ("28-Feb-97", "2005", None),
        ("28-Feb-97", "", None),
        ("", "1997", None),
        ("1997-02-28", "1997", None),
    ],
)
def test_dates_get_the_century_of_their_fiscal_year(
    root: Project, text: str, fiscal_year: str, expected: date | None
) -> None:
    dates = script(root, STAGE)["approval_dates"](pd.DataFrame({"ApprovalDate": [text], "ApprovalFY": [fiscal_year]}))
    assert (None if pd.isna(dates[0]) else dates[0].date()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$60,000.00 ", 60_000.0),
        ("$1,234,567.89", 1_234_567.89),
        ("0", 0.0),
        ("-5", -5.0),
        ("$", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("$1,2", None),
        ("USD 5", None),
    ],
)
def test_money(root: Project, text: str, expected: float | None) -> None:
    (value,) = script(root, STAGE)["money"](pd.Series([text.strip()]))
    assert (None if pd.isna(value) else value) == expected


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ("RevLineCr", "revolving_credit", {"Y": "yes", "N": "no"} | dict.fromkeys("0T1R C`,.2")),
        ("LowDoc", "low_doc", {"Y": "yes", "N": "no"} | dict.fromkeys("01ACRS")),
        ("NewExist", "new_business", {"1": "no", "2": "yes", "1.0": "no", "0": None, "": None}),
        ("UrbanRural", "urban_rural", {"1": "urban", "2": "rural", "0": None}),
        ("FranchiseCode", "franchise", {"0": "no", "1": "no", "1.0": "no", "00001": "no", "78760": "yes"}),
        ("BankState", "bank_state", {"TX": "TX", "": None}),
    ],
)
def test_codes(root: Project, raw: str, field: str, words: dict[str, str | None]) -> None:
    assert clean(root, *({raw: code} for code in words)) == 0
    found = read(root, "rows")[field]
    assert [None if pd.isna(word) else word for word in found] == list(words.values())


def test_fillers_are_missing(root: Project) -> None:
    assert clean(root, {"NAICS": "0", "CreateJob": "8800", "RetainedJob": "8800"}) == 0
    assert read(root, "rows")[["naics", "jobs_created", "jobs_retained"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"LoanNr_ChkDgt": ""}, "LoanNr_ChkDgt is empty or malformed"),
        ({"ApprovalDate": "soon"}, "ApprovalDate can't be read as a date"),
        ({"MIS_Status": "LATE"}, "MIS_Status is none of CHGOFF, P I F"),
        ({"GrAppv": "a lot"}, "GrAppv can't be read as a number"),
        ({"NoEmp": "few"}, "NoEmp can't be read as a number"),
        ({"NoEmp": "٣"}, "NoEmp can't be read as a number"),
        ({"ApprovalDate": "31-Dec-30", "ApprovalFY": "2031"}, "ApprovalDate is after today"),
        ({"LoanNr_ChkDgt": "5.29E+09"}, "LoanNr_ChkDgt is empty or malformed"),
        ({"FranchiseCode": "NA"}, "franchise must be one of no, yes"),
        ({"NoEmp": ""}, "employees must be a whole number from 0 to 9,999"),
        ({"NoEmp": "2.5"}, "employees must be a whole number from 0 to 9,999"),
        ({"NAICS": "72"}, "naics must be a whole number from 110,000 to 999,999 or null"),
        ({"State": "XX"}, "state must be one of AL, AK, AZ, … or null"),
        ({"SBA_Appv": "$60,000.01"}, "sba_guaranteed must not be above gross_approved"),
    ],
    ids=str,
)
def test_rows_that_cant_be_used_are_kept_with_their_reason(root: Project, change: dict[str, str], reason: str) -> None:
    assert clean(root, {}, change, {}) == 0
    assert len(read(root, "rows")) == 2
    (rejected,) = read(root, "rejected").to_dict("records")
    assert rejected.pop("reason") == reason
    assert rejected == GOOD | {"LoanNr_ChkDgt": "1000000001"} | change
    counted = metrics(root)
    assert [counted[name] for name in ("rows", "clean", "rejected", "duplicates", "unlabelled")] == [3, 2, 1, 0, 0]
    assert counted["reasons"] == {reason: 1}


def test_undefined_codes_say_nothing_and_new_ones_are_counted(root: Project) -> None:
    assert clean(root, {"RevLineCr": "0"}, {"RevLineCr": "T"}, {"RevLineCr": "`"}, {"FranchiseCode": "none"}) == 0
    assert read(root, "rows")["revolving_credit"].isna().tolist() == [True, True, True]
    unknown = metrics(root)["unknown_codes"]
    assert unknown["RevLineCr"] == {"rows": 1, "commonest": {"`": 1}}
    assert unknown["FranchiseCode"] == {"rows": 1, "commonest": {"none": 1}}
    assert list(read(root, "rejected")["reason"]) == ["franchise must be one of no, yes"]


def test_the_last_source_wins_and_is_named(root: Project, capsys: pytest.CaptureFixture[str]) -> None:
    late = {"LoanNr_ChkDgt": "01000000000", "MIS_Status": "CHGOFF"}
    assert clean(root, {}, {}, late) == 0
    assert read(root, "rows")["outcome"].tolist() == [0, 1]
    line = "2 clean, 0 rejected, 1 duplicates, 1 with another outcome than before: kept as in x.csv (1)"
    assert line in capsys.readouterr().out
