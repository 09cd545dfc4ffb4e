"""The contract of the SBA loans: values and messages, written by hand."""

from typing import Any

import pytest
from rows import example_row
from test_contract import frame_result, request_results

from credit_risk.contract import CONTRACT
from credit_risk.features import FEATURES


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"employees": 0},
        {"employees": 9_999},
        {"employees": 12.0},
        {"gross_approved": 100, "sba_guaranteed": 100},
        {"gross_approved": 5_500_000.0},
        {"naics": 110_000},
        {"naics": 999_999},
        {"state": "PR", "urban_rural": "rural"},
        {field.name: None for field in CONTRACT.fields if not field.required},
    ],
    ids=str,
)
def test_good_loans_pass_both_checks(change: dict[str, Any]) -> None:
    assert frame_result(example_row(**change)) is None
    assert request_results(example_row(**change)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"employees": -1}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": 10_000}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": 2.5}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": "5"}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": True}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": None}, "employees must be a whole number from 0 to 9,999"),
        ({"gross_approved": 99.99}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"gross_approved": float("nan")}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"gross_approved": float("inf")}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"sba_guaranteed": 200_000.0}, "sba_guaranteed must not be above gross_approved"),
        ({"naics": 109_999}, "naics must be a whole number from 110,000 to 999,999 or null"),
        ({"jobs_created": -3}, "jobs_created must be a whole number from 0 to 9,999 or null"),
        ({"state": "ZZ"}, "state must be one of AL, AK, AZ, … or null"),
        ({"state": "tx"}, "state must be one of AL, AK, AZ, … or null"),
        ({"state": ""}, "state must be one of AL, AK, AZ, … or null"),
        ({"new_business": "Yes"}, "new_business must be one of no, yes or null"),
        ({"franchise": None}, "franchise must be one of no, yes"),
        ({"urban_rural": 1}, "urban_rural must be one of urban, rural or null"),
    ],
    ids=str,
)
def test_bad_loans_fail_both_checks_with_the_same_message(change: dict[str, Any], message: str) -> None:
    assert frame_result(example_row(**change)) == message
    assert request_results(example_row(**change)) == [message]


def test_all_columns_of_the_source_have_a_role() -> None:
    assert len(CONTRACT.raw_columns) == 27


@pytest.mark.parametrize(
    "name", ["Term", "term", "ChgOffDate", "mis_status", "LoanNr_ChkDgt", "Name", "Zip", "ApprovalFY", "ApprovalDate"]
)
def test_what_is_unknown_at_approval_identifies_or_dates_is_no_field(name: str) -> None:
    assert CONTRACT.rejection(name) not in (None, "is not in the contract")


def test_no_feature_reads_the_calendar_or_what_is_unknown_at_approval() -> None:
    words = {"year", "date", "month", "term", "disbursement", "balance", "chgoff"}
    assert not [name for name in FEATURES.names if words & set(name.split("_"))]


def test_labels_are_names_as_people_write_them() -> None:
    names = ("gross_approved", "sba_guaranteed", "naics")
    assert [CONTRACT.label(name) for name in names] == ["Gross approved", "SBA guaranteed", "NAICS"]
